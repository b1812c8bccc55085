"""Warns of prices that are probably in dollars instead of millionths of a dollar."""

from collections.abc import Iterator
from typing import Final

from provider_agent.agent.config.schema import PricingConfig

CENT: Final = 10_000
"""One cent, in millionths of a US dollar. Hardly any model costs less per million tokens."""


def low_prices(pricing: PricingConfig) -> Iterator[str]:
    """Yield a warning for each price above zero and below one cent per million tokens."""
    prices = {
        "pricing.default_input_per_1m": pricing.default_input_per_1m,
        "pricing.default_output_per_1m": pricing.default_output_per_1m,
    }
    for name, price in pricing.models.items():
        prices[f'pricing.models."{name}".input_per_1m'] = price.input_per_1m
        prices[f'pricing.models."{name}".output_per_1m'] = price.output_per_1m
    for key, amount in prices.items():
        if amount is not None and 0 < amount < CENT:
            yield (
                f"{key} = {amount} is less than one cent per million tokens; prices are in"
                f" millionths of a dollar: ${amount} is written {amount * 1_000_000:_}"
            )
