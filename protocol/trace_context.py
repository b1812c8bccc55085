"""W3C Trace Context: validates a `traceparent` before it is forwarded as an HTTP header."""

import re
from typing import Final

_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
"""The fields of version 00 (section 3.2.2), with any version number but `ff`. The pattern allows no
line breaks, so a `traceparent` cannot inject another header."""


def is_traceparent(text: str) -> bool:
    """Whether `text` is a valid `traceparent`; an invalid one is not forwarded."""
    return _TRACEPARENT.fullmatch(text) is not None
