"""Extracts the text of a streamed response for display. The relay of jobs does not use it."""

from typing import Final

import msgspec

from provider_agent.protocol.formats import WireFormat

MAX_LINE_BYTES: Final = 4 * 1024 * 1024
"""A longer line is dropped, so that a response cannot fill the memory."""


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


class AnswerText:
    """Incremental reader of the text in a stream of server-sent events.

    Args:
        wire_format: of the response.
    """

    def __init__(self, wire_format: WireFormat) -> None:
        self._anthropic = wire_format is WireFormat.ANTHROPIC
        self._rest = b""

    def feed(self, data: bytes) -> str:
        """Return the text of the lines that these bytes complete; an incomplete line is kept."""
        self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            self._rest = b""
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
        parts = [choice.delta or _Delta() for choice in event.choices]
        return "".join(part.content or part.reasoning_content or "" for part in parts)
