"""The price of one offered model. A pure decision.

A passthrough pays its upstream for every token. The upstream's price is the base where it is known.
Where it is not, the operator's default applies and may be below cost: set a price for such models,
or offer only models with a known price.
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
    """The price at which a model is offered; None when none is known.

    The first of: the price configured for this model; the upstream's price plus the markup; the
    configured default.

    Args:
        model_id: as it is offered.
        pricing: the `[pricing]` section.
        upstream: what the operator pays, when the backend reported it.
        markup: added to `upstream`; 0.05 is five percent, None is no markup.
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
    """Rounded up, so that rounding never sells below cost; exact in decimal (1.1 is 11/10)."""
    return ceil(price * (1 + Fraction(str(markup or 0))))
