"""Names models in the error for another one."""

from collections.abc import Sequence
from typing import Final

MAX_NAMED: Final = 10
"""More names would hide the rest of the message; `GET /v1/models` lists all."""


def offered_instead(models: Sequence[str]) -> str:
    """Return a clause such as "; offered: `a`, `b` and 3 more"; "" if there are no models."""
    if not models:
        return ""
    named = ", ".join(f"`{name}`" for name in models[:MAX_NAMED])
    more = len(models) - MAX_NAMED
    return f"; offered: {named}{f' and {more} more' if more > 0 else ''}"
