"""Makes text that a coordinator sent safe to log and to print."""

from typing import Final

from provider_agent.protocol.field_values import to_line

MAX_CHARS: Final = 500
"""Longer than any useful reason; bounds the memory of the texts that are kept for `status`."""


def sanitize(text: str) -> str:
    """Return `text` on one line, cut to `MAX_CHARS`, without characters that control a terminal.

    The result goes to logs, to `status` and to the plain-text response of `/readyz`.
    """
    line = to_line(text, MAX_CHARS)
    return line if len(text) <= MAX_CHARS else f"{line}…"
