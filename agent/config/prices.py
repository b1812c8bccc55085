"""Prices in `agent.toml`: whole millionths of a US dollar, or dollars as text with their unit.

The unit is required: a bare `5` could mean five dollars or five millionths.
"""

import re
from typing import Final

from provider_agent.agent.config.errors import ConfigError, bad_value

MILLION: Final = 1_000_000
"""Millionths of a dollar in one dollar."""

_AMOUNT: Final = re.compile(r"(?P<whole>\d{1,12})(\.(?P<rest>\d{1,6}))? ?USD", re.ASCII)
_NUMBER: Final = re.compile(r"\d{0,4}\.\d{1,6}", re.ASCII)
_EXPECTED: Final = "a whole number of millionths of a US dollar, or dollars with their unit"


def to_millionths(raw: object, key: str, in_dollars: set[str]) -> object:
    """Replace each text such as `0.50 USD` by millionths of a dollar; keep all other values.

    Args:
        raw: the value of `key`: one price, or the table of all models.
        key: the dotted key.
        in_dollars: receives the keys of the replaced prices.
    """
    if key != "pricing.models" or not isinstance(raw, dict):
        return _amount(raw, key, in_dollars)
    return {name: _entry(entry, f'{key}."{name}"', in_dollars) for name, entry in raw.items()}


def parse_amount(text: str) -> int | None:
    """Return an amount such as `0.50 USD` in millionths of a dollar; None for other text."""
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        return None
    return int(match["whole"]) * MILLION + int((match["rest"] or "").ljust(6, "0"))


def _entry(raw: object, key: str, in_dollars: set[str]) -> object:
    if not isinstance(raw, dict):
        return raw
    return {name: _amount(value, f"{key}.{name}", in_dollars) for name, value in raw.items()}


def _amount(raw: object, key: str, in_dollars: set[str]) -> object:
    amount = parse_amount(raw) if isinstance(raw, str) else None
    if amount is None:
        return raw
    in_dollars.add(key)
    return amount


def dollars(millionths: int) -> str:
    """Return the amount as `config show` prints it, and as the file accepts it: `0.50 USD`."""
    whole, rest = divmod(millionths, MILLION)
    return f"{whole}.{f'{rest:06}'.rstrip('0').ljust(2, '0')} USD"


def dollars_meant(text: str) -> tuple[int, str]:
    """Return an example for the error about a text that is not a price: an amount, and its name.

    The amount is that of the text if it looks like dollars without their unit.
    """
    if not _NUMBER.fullmatch(text):
        return 500_000, "half a dollar"
    whole, _, rest = text.partition(".")
    return int(whole or 0) * MILLION + int(rest.ljust(6, "0")), f"{text} dollars"


def bad_price(origin: str, key: str, reason: str, value: object, *, in_quotes: bool) -> ConfigError:
    """Return the error for a value that is not a price.

    Args:
        origin: the origin of the value.
        key: the dotted key of the price.
        reason: why its conversion to an integer failed.
        value: the value, which the error shows only if it looks like an amount of dollars: in a
            variable, it may be a secret.
        in_quotes: whether text is in quotes at this origin, as in a file.
    """
    amount, subject = dollars_meant(str(value))
    quote = '"' if in_quotes else ""
    forms = f"{amount:_} or {quote}{dollars(amount)}{quote}"
    # A string would be right, so that the name of its type would not say what is wrong.
    text = "a string in quotes" if in_quotes else "text"
    reason = reason.replace(f"a whole number, got {text}", "a whole number, got other text")
    reason = reason.replace("expected a whole number, got", f"expected {_EXPECTED}, got")
    return bad_value(origin, key, reason, f"{subject} per million tokens is {forms}")
