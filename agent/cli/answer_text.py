"""Reads the text out of a response as it streams by, to show it to people. Never on the relay."""

from typing import Final

import msgspec

from provider_agent.protocol.formats import WireFormat

MAX_LINE_BYTES: Final = 4 * 1024 * 1024
"""A longer line, or response in one piece, is not shown: it would only fill the memory."""


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    text: str | None = None
    thinking: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None


class _Block(msgspec.Struct):
    text: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    delta: _Delta | None = None
    content: list[_Block] | None = None


class AnswerText:
    """Turns response bytes into the text they carry.

    Args:
        wire_format: of the response.
        streamed: whether it comes as server-sent events.
    """

    def __init__(self, wire_format: WireFormat, *, streamed: bool) -> None:
        self._anthropic = wire_format is WireFormat.ANTHROPIC
        self._streamed = streamed
        self._rest = b""

    def feed(self, data: bytes) -> str:
        """The text in these bytes; what is incomplete waits for the next ones."""
        self._rest += data
        lines: list[bytes] = []
        if self._streamed:
            *lines, self._rest = self._rest.split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            self._rest = b""
        return "".join(
            self._text_of(line[5:].strip()) for line in lines if line.startswith(b"data:")
        )

    def finish(self) -> str:
        """The text of a response in one piece; "" for a stream."""
        return "" if self._streamed else self._text_of(self._rest)

    def _text_of(self, document: bytes) -> str:
        try:
            event = msgspec.json.decode(document, type=_Event)
        except (ValueError, RecursionError):
            return ""
        if self._anthropic:
            blocks = [block.text or "" for block in event.content or ()]
            delta = event.delta or _Delta()
            return "".join(blocks) + (delta.text or delta.thinking or "")
        parts = [choice.delta or choice.message or _Delta() for choice in event.choices]
        return "".join(part.content or part.reasoning_content or "" for part in parts)
