"""The price of one model on one backend.

The operator pays the upstream of a passthrough, the remote service, for every token. If its price
is unknown, the model has no price unless the operator sets one in `[pricing.models]`, which has
priority over every other price. `[pricing] default_…` applies to native backends only.
"""

from fractions import Fraction
from functools import cache
from typing import Final

from msgspec import Struct

from provider_agent.adapters.base import BackendModel
from provider_agent.agent.config.schema import Price, PricingConfig
from provider_agent.protocol.field_values import valid_count

NO_PRICES: Final = PricingConfig()
"""A `[pricing]` section without prices."""


class OfferedPrice(Struct, frozen=True):
    """The price of a model in the last `Capabilities`; None: no price.

    Attributes:
        input_per_1m: millionths of a US dollar per million input tokens.
        output_per_1m: the same for output tokens.
        native: whether the offer is for native backends only.
    """

    input_per_1m: int | None = None
    output_per_1m: int | None = None
    native: bool = True

    def covers(self, price: Price | None, *, native: bool) -> bool:
        """Whether a job that is paid at the offered price may run on a backend priced at `price`.

        A native backend costs the operator nothing per token, so it may always run the job. A
        passthrough may only if the offer includes passthroughs, at `price` or more.
        """
        if native:
            return True
        if self.native or price is None:
            return False
        return price.input_per_1m <= (self.input_per_1m or 0) and price.output_per_1m <= (
            self.output_per_1m or 0
        )


def price_for(model: BackendModel, pricing: PricingConfig, markup: float | None) -> Price | None:
    """Return the price of a model on one backend; None if it has none.

    It is the first known price of: the price configured for this model, the upstream's price plus
    the markup, and for a native model the configured default.

    Args:
        model: the model, with the price that the operator pays.
        pricing: the `[pricing]` section.
        markup: share of the upstream's price that is added to it: 0.05 is five percent, None is 0.
    """
    if (configured := pricing.models.get(model.model_id)) is not None:
        return configured
    input_per_1m = valid_count(model.input_price_per_1m)
    output_per_1m = valid_count(model.output_price_per_1m)
    if input_per_1m is not None and output_per_1m is not None:
        return _valid(Price(_marked_up(input_per_1m, markup), _marked_up(output_per_1m, markup)))
    if not model.native or pricing.default_input_per_1m is None:
        return None
    if pricing.default_output_per_1m is None:
        return None
    return Price(pricing.default_input_per_1m, pricing.default_output_per_1m)


def _valid(price: Price) -> Price | None:
    """Return None for a price that no frame can carry."""
    known = None not in (valid_count(price.input_per_1m), valid_count(price.output_per_1m))
    return price if known else None


def _marked_up(price: int, markup: float | None) -> int:
    """Add the markup and round up, so that rounding never sells below cost.

    The markup is exact in decimal: 0.1 is 1/10, not the nearest binary fraction.
    """
    factor = _factor(markup or 0.0)
    return -(-price * factor.numerator // factor.denominator)


@cache
def _factor(markup: float) -> Fraction:
    """Return what a price is multiplied by. Routing needs it for every job."""
    return 1 + Fraction(str(markup))
