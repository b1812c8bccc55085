"""The price per token of a model in a catalog, in the worst case that a client can cause.

A client chooses the length of its prompt, and whether it has images or is written to a cache. The
offered prices of input and output are fixed before a request is known. So each is the highest of
all prices that may apply to such a token.
"""

from collections.abc import Iterable
from decimal import ROUND_CEILING, Decimal, DecimalException
from typing import Final

from msgspec import Struct

_MILLION_TOKENS: Final = 1_000_000
_MICRO_USD_PER_USD: Final = 1_000_000
_MAX_PRICE: Final = 10**15
"""A billion dollars per million tokens; a higher price is considered an error."""


class CatalogPrice(Struct, frozen=True):
    """What a service charges the operator for a model.

    Attributes:
        input_per_1m: millionths of a US dollar per million input tokens; None if unknown.
        output_per_1m: the same for output tokens.
        unknown: why the price is unknown, as a text for the operator; "" if it is known.
    """

    input_per_1m: int | None = None
    output_per_1m: int | None = None
    unknown: str = ""


def worst_price(
    inputs: Iterable[object], outputs: Iterable[object], *, tokens: int
) -> CatalogPrice:
    """Return the highest input price and the highest output price.

    Args:
        inputs: the prices of input tokens in US dollars. The first is the base price; a further one
            that is None is not charged.
        outputs: the same for output tokens.
        tokens: the number of tokens that a price is for.
    """
    input_price, output_price = _highest(inputs, tokens), _highest(outputs, tokens)
    if input_price is None or output_price is None:
        return CatalogPrice(unknown="its price is unknown")
    return CatalogPrice(input_price, output_price)


def _highest(prices: Iterable[object], tokens: int) -> int | None:
    base, *others = prices
    charged = [base, *(price for price in others if price is not None)]
    found = [micro_usd_per_million(price, tokens=tokens) for price in charged]
    known = [price for price in found if price is not None]
    return max(known) if len(known) == len(found) else None


def is_charged(price: object) -> bool:
    """Whether a price is anything but absent or zero."""
    return price is not None and micro_usd_per_million(price, tokens=1) != 0


def micro_usd_per_million(price: object, *, tokens: int) -> int | None:
    """Convert a catalog's price to the unit of `BackendModel`.

    Args:
        price: the price in US dollars, a number or its text. The calculation is decimal; its result
            is rounded up, so that it is never below cost.
        tokens: the number of tokens that the price is for.

    Returns:
        Millionths of a US dollar per million tokens; None if the price is absent, negative
        (OpenRouter's value for a variable price), not a number, or above `_MAX_PRICE`.
    """
    if isinstance(price, bool) or not isinstance(price, str | float | int):
        return None
    try:
        exact = Decimal(str(price)) * _MICRO_USD_PER_USD * _MILLION_TOKENS / tokens
        if not exact.is_finite() or not 0 <= exact <= _MAX_PRICE:
            return None
        return int(exact.to_integral_value(rounding=ROUND_CEILING))
    except DecimalException:
        return None
