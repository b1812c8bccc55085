"""Makes text that a coordinator sent safe to log and to print."""

from typing import Final

MAX_CHARS: Final = 500
"""Longer than any useful reason; `status` keeps the last one until the next connection."""


def sanitize(text: str) -> str:
    """Return `text` on one line, cut to `MAX_CHARS`, without characters that control a terminal.

    The result goes to logs, to `status` and to the plain-text response of `/readyz`.
    """
    cut = text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}…"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in cut)
