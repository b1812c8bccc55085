"""Extracts the text of a streamed response for the terminal. The service does not use it."""

from typing import Final

import msgspec

from provider_agent.protocol.formats import WireFormat

MAX_LINE_BYTES: Final = 4 * 1024 * 1024
"""A longer line is discarded, to bound memory."""


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    text: str | None = None
    thinking: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    delta: _Delta | None = None


class ResponseText:
    """Extracts the text of a streamed response, for `ask`, `check` and `demo`.

    Args:
        wire_format: the response's format.
    """

    def __init__(self, wire_format: WireFormat) -> None:
        self._anthropic = wire_format is WireFormat.ANTHROPIC
        self._rest = b""

    def receive_data(self, data: bytes) -> str:
        """Return the text in these bytes; an incomplete line waits for the next bytes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            self._rest = b":"  # what follows of the line belongs to a comment
        return "".join(
            self._text_of(line[5:].strip()) for line in lines if line.startswith(b"data:")
        )

    def _text_of(self, document: bytes) -> str:
        try:
            event = msgspec.json.decode(document, type=_Event)
        except (ValueError, RecursionError):
            return ""
        if self._anthropic:
            delta = event.delta or _Delta()
            return delta.text or delta.thinking or ""
        deltas = [choice.delta or _Delta() for choice in event.choices]
        return "".join(delta.content or delta.reasoning_content or "" for delta in deltas)
