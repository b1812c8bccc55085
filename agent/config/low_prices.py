"""Warns of prices that are probably in dollars instead of millionths of a dollar."""

from collections.abc import Collection, Iterator
from typing import Final

from provider_agent.agent.config.prices import MILLION, dollars
from provider_agent.agent.config.schema import PricingConfig

CENT: Final = 10_000
"""One cent, in millionths of a US dollar. Hardly any model costs less per million tokens."""


def low_prices(pricing: PricingConfig, in_dollars: Collection[str] = ()) -> Iterator[str]:
    """Yield a warning for each price above zero and below one cent per million tokens.

    Args:
        pricing: the prices.
        in_dollars: the keys of prices that were given with their unit; they are meant.
    """
    prices = {
        "pricing.default_input_per_1m": pricing.default_input_per_1m,
        "pricing.default_output_per_1m": pricing.default_output_per_1m,
    }
    for name, price in pricing.models.items():
        prices[f'pricing.models."{name}".input_per_1m'] = price.input_per_1m
        prices[f'pricing.models."{name}".output_per_1m'] = price.output_per_1m
    for key, amount in prices.items():
        if amount is not None and 0 < amount < CENT and key not in in_dollars:
            yield (
                f"{key} = {amount} is less than one cent per million tokens; prices are in"
                f" millionths of a dollar: ${amount} is written {amount * MILLION:_} or "
                f'"{dollars(amount * MILLION)}"'
            )
