"""The price of one offered model.

The operator pays the upstream of a passthrough, the remote service, for every token. If the
upstream's price is unknown, the configured default applies, which may be below cost. A price in
`[pricing.models]` has priority over both.
"""

from fractions import Fraction
from math import ceil

from provider_agent.agent.config.schema import Price, PricingConfig

__all__ = ["Price", "price_for"]


def price_for(
    model_id: str,
    pricing: PricingConfig,
    *,
    upstream: Price | None = None,
    markup: float | None = None,
) -> Price | None:
    """Return the price at which a model is offered; None if no price is known.

    It is the first known price of: the price configured for this model, the upstream's price plus
    the markup, the configured default.

    Args:
        model_id: the id under which the model is offered.
        pricing: the `[pricing]` section.
        upstream: the price that the operator pays; None if the backend did not report it.
        markup: share of `upstream` that is added to it: 0.05 is five percent, None is 0.
    """
    if (configured := pricing.models.get(model_id)) is not None:
        return configured
    if upstream is not None:
        return Price(
            _marked_up(upstream.input_per_1m, markup), _marked_up(upstream.output_per_1m, markup)
        )
    if pricing.default_input_per_1m is None or pricing.default_output_per_1m is None:
        return None
    return Price(pricing.default_input_per_1m, pricing.default_output_per_1m)


def _marked_up(price: int, markup: float | None) -> int:
    """Add the markup and round up, so that rounding never sells below cost.

    The markup is exact in decimal: 0.1 is 1/10, not the nearest binary fraction.
    """
    return ceil(price * (1 + Fraction(str(markup or 0))))
