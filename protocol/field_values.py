"""Makes values valid for the fields of a frame.

Servers, the configuration and operators may supply numbers and texts that no frame can carry. One
such value would make the receiver close the link, which fails every job. So values are checked
where they enter a frame: an impossible number becomes None (unknown) or the nearest possible one; a
text is cut, and its invalid characters are replaced.
"""

import math
import re
from typing import Final

from provider_agent.protocol.limits import MAX_INTEGER, MAX_NAME_CHARS, MAX_TEXT_CHARS

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
"""Surrogates, which UTF-8 cannot encode. Python represents undecodable bytes of headers and
environment variables by single surrogates (PEP 383), and JSON can contain them as escapes."""

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


def valid_count(reported: int | None) -> int | None:
    """Return `reported`, or None when it is negative, over `MAX_INTEGER` or not an integer."""
    # A third party's adapter may report another type, and msgspec encodes without a check.
    return reported if type(reported) is int and 0 <= reported <= MAX_INTEGER else None


def clamp_count(value: int) -> int:
    """Return the possible count that is nearest to `value`."""
    return min(max(value, 0), MAX_INTEGER)


def whole_milliseconds(seconds: float) -> int:
    """Convert seconds to a possible count of milliseconds; 0 for NaN."""
    milliseconds = seconds * 1000
    if math.isnan(milliseconds):
        return 0
    return round(min(max(milliseconds, 0.0), float(MAX_INTEGER)))


def valid_share(reported: float | None) -> float | None:
    """Return `reported`, or None when it is not between 0 and 1."""
    return reported if reported is not None and 0.0 <= reported <= 1.0 else None


def valid_speed(reported: float | None) -> float | None:
    """Return `reported`, or None when it is not a positive finite number."""
    return reported if reported is not None and 0.0 < reported < math.inf else None


def valid_measure(measured: float | None) -> float | None:
    """Return `measured`, or None when it is negative or not finite."""
    return measured if measured is not None and 0.0 <= measured < math.inf else None


def is_name(text: str) -> bool:
    """Whether a frame can carry `text` unchanged as a name or an id: one printable line."""
    return 0 < len(text) <= MAX_NAME_CHARS and text.isprintable()


def to_text(text: str, max_chars: int = MAX_TEXT_CHARS) -> str:
    """Return `text` without surrogates, cut to `max_chars`."""
    return _SURROGATE.sub(REPLACEMENT, text[:max_chars])


def to_line(text: str, max_chars: int = MAX_NAME_CHARS) -> str:
    """Return `text` on one line, cut to `max_chars`, with unprintable characters replaced."""
    cut = text[:max_chars]
    if cut.isprintable():
        return cut
    return "".join(char if char.isprintable() else REPLACEMENT for char in cut)
