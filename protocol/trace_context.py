"""W3C Trace Context: which `traceparent` may be handed on as an HTTP header."""

import re
from typing import Final

_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
"""Section 3.2.2, version 00. Whatever else it may hold some day, no header can be made of this."""


def is_traceparent(text: str) -> bool:
    """Whether `text` is one; anything else is not handed on."""
    return _TRACEPARENT.fullmatch(text) is not None
