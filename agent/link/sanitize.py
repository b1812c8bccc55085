"""Texts of a coordinator, before they are shown to anybody."""

from typing import Final

MAX_SHOWN_CHARS: Final = 500
"""Enough for any honest reason. It is kept, and told again by every `status`."""


def sanitize(text: str) -> str:
    """`text` on one line, without what could take over a terminal, and not longer than needed.

    It ends in logs, in `status` and in the answer of `/readyz`, which is plain text.
    """
    cut = text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in cut)
