"""How long until a server accepts requests again, according to its response headers."""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

MAX_RETRY_AFTER_S: Final = 86_400.0
"""A delay of a day or more is treated as a mistake of the server and ignored."""

_RESET_HEADERS: Final = ("x-ratelimit-reset", "x-ratelimit-reset-requests")
"""OpenRouter's header, a Unix time in milliseconds, and Venice's, a Unix time in seconds.

Venice sends its header with every response, also with successes. So both headers are read only
from a 429."""

_MILLISECONDS_FROM: Final = 1e11
"""Unix times above this are milliseconds: as seconds it would be the year 5138."""


def retry_after_s(status: int, headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds until the server accepts requests again; None if no header reports them.

    Args:
        status: the response's status.
        headers: the response's headers, with case-insensitive names.
        now: Unix time in seconds.
    """
    value = headers.get("Retry-After")
    if value is not None:
        return _bounded(_delay_seconds(value, now))
    for name in _RESET_HEADERS if status == 429 else ():
        if name in headers:
            reset = _number(headers[name])
            if reset is not None:
                unix = reset / 1000 if reset > _MILLISECONDS_FROM else reset
                return _bounded(unix - now)
    return None


def parse_retry_after(value: str | None) -> float | None:
    """Parse a `Retry-After` value in seconds, however long; None for a date or an invalid value."""
    seconds = None if value is None else _number(value)
    return seconds if seconds is not None and seconds >= 0 else None


def _delay_seconds(value: str, now: float) -> float | None:
    """Parse delay seconds or an HTTP date (RFC 9110, section 10.2.3); None if invalid."""
    number = _number(value)
    if number is not None:
        return number
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _bounded(seconds: float | None) -> float | None:
    return seconds if seconds is not None and 0 <= seconds < MAX_RETRY_AFTER_S else None
