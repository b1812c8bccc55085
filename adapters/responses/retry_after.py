"""When a server wants to be asked again, from its response headers. Pure."""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

MAX_RETRY_AFTER_S: Final = 86_400.0
"""Nobody waits for more than a day; a bigger number is a mistake."""

_RESET_HEADERS: Final = ("x-ratelimit-reset", "x-ratelimit-reset-requests")
"""OpenRouter's (Unix time in milliseconds) and Venice's (Unix time in seconds).

Venice sends its own with every response: it says when to come back only after a 429."""

_MILLISECONDS_FROM: Final = 1e11
"""Unix times above this are milliseconds: as seconds it would be the year 5138."""


def retry_after_s(status: int, headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until the server may be asked again; None when it does not say.

    Args:
        status: of the response.
        headers: of the response, by case-insensitive names.
        now: Unix time.
    """
    told = headers.get("Retry-After")
    if told is not None:
        return _bounded(_seconds(told, now))
    for name in _RESET_HEADERS if status == 429 else ():
        if name in headers:
            moment = _number(headers[name])
            if moment is not None:
                unix = moment / 1000 if moment > _MILLISECONDS_FROM else moment
                return _bounded(unix - now)
    return None


def parse_retry_after(value: str | None) -> float | None:
    """Seconds of a `Retry-After` header; None when there is none, or a date."""
    return None if value is None else _bounded(_number(value))


def _seconds(value: str, now: float) -> float | None:
    """Delay seconds, or an HTTP date (RFC 9110, section 10.2.3)."""
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
