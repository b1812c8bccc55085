"""Judges a response from a copy of its bytes: did it succeed, and what did it use?

HTTP 200 says nothing: servers report errors inside a stream, or just stop. What tells is at the
ends of the response, so an inspector keeps the first and the last kilobytes of a stream, decodes
nothing while bytes flow, and judges once at the end. What it sees does not depend on how the bytes
were cut into chunks.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final, Protocol

import msgspec

from adapters.status_codes import code_for_status
from protocol.errors import ErrorCode
from protocol.formats import WireFormat

HEAD_BYTES: Final = 8 * 1024
"""Where `message_start` stands: the first event, with the usage of the prompt."""

TAIL_BYTES: Final = 32 * 1024
"""Where the last events stand: a last delta (with a whole tool call in it at some servers), the
finish reason, usage, the terminal marker, or an error."""

BODY_BYTES: Final = 8 * 1024 * 1024
"""The biggest response in one piece that is judged; of a bigger one the usage stays unknown."""


class Usage(msgspec.Struct, frozen=True):
    """Tokens as the server reported them; None for what it did not report.

    Attributes:
        input_tokens: of the prompt, cached ones included, in both formats alike.
        output_tokens: of the answer.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None


class Failure(msgspec.Struct, frozen=True):
    """Why a response that began as a success is none.

    Attributes:
        code: of the error registry.
        message: for people.
        body: the server's own error, when it sent one.
    """

    code: ErrorCode
    message: str
    body: bytes = b""


class Verdict(msgspec.Struct, frozen=True):
    """What a complete response was.

    Attributes:
        usage: the tokens it reports.
        failure: None for a success.
    """

    usage: Usage
    failure: Failure | None = None


class Inspector(Protocol):
    """Sees a copy of every byte; never changes one."""

    def feed(self, data: bytes) -> None:
        """The next bytes of the response."""
        ...

    def verdict(self) -> Verdict:
        """What the response was; called once, after its last byte."""
        ...


def inspector_for(wire_format: WireFormat, content_type: str) -> Inspector:
    """The inspector for a response of this content type."""
    if content_type.partition(";")[0].strip().lower() == "text/event-stream":
        return StreamInspector(wire_format)
    return BodyInspector()


class _AnyUsage(msgspec.Struct):
    """The fields of both formats: their names do not collide."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens: int | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Message(msgspec.Struct):
    usage: _AnyUsage | None = None


class _Event(msgspec.Struct):
    """What may matter in a `data:` line or in a response of one piece, whatever the format."""

    type: str | None = None
    choices: list[_Choice] | None = None
    usage: _AnyUsage | None = None
    message: _Message | str | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")
    error_type: msgspec.Raw = msgspec.Raw(b"null")
    error_message: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def is_error(self) -> bool:
        return self.type == "error" or any(
            bytes(field) != b"null" for field in (self.error, self.error_type, self.error_message)
        )


_EVENT = msgspec.json.Decoder(_Event)


def _decode(data: bytes) -> _Event | None:
    try:
        return _EVENT.decode(data)
    except (ValueError, RecursionError):
        return None


def _usage(*reports: _AnyUsage | None) -> Usage:
    """One usage from several reports; a later report counts more, field by field."""
    merged: dict[str, int] = {}
    for report in reports:
        if report is not None:
            fields = msgspec.structs.asdict(report)
            merged.update({name: n for name, n in fields.items() if n is not None and n >= 0})
    prompt = merged.get("prompt_tokens")
    if prompt is None and "input_tokens" in merged:
        prompt = (
            merged["input_tokens"]
            + merged.get("cache_read_input_tokens", 0)
            + merged.get("cache_creation_input_tokens", 0)
        )
    return Usage(prompt, merged.get("completion_tokens", merged.get("output_tokens")))


def _server_error(body: bytes) -> Failure:
    """The failure that an error frame or error body reports."""
    status = 500
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        inner = fields.get("error", msgspec.Raw(body))
        code = msgspec.json.decode(inner, type=_ErrorFields).code
        if isinstance(code, int):
            status = code
    except (ValueError, RecursionError):
        pass
    code_found = code_for_status(status if 400 <= status <= 599 else 500, body)
    return Failure(code_found, "the server reported an error inside its answer", body)


class _ErrorFields(msgspec.Struct):
    code: int | str | None = None


class BodyInspector:
    """For a response in one piece: one JSON object."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        """The next bytes of the response."""
        self._size += len(data)
        if self._size <= BODY_BYTES:
            self._pieces.append(data)
        else:
            self._pieces.clear()

    def verdict(self) -> Verdict:
        """A success is one JSON object without an error in it."""
        if self._size > BODY_BYTES:
            return Verdict(Usage())
        body = b"".join(self._pieces)
        event = _decode(body)
        if event is None:
            failure = Failure(
                ErrorCode.INVALID_RESPONSE, "the server's answer is not a JSON object"
            )
            return Verdict(Usage(), failure)
        if event.is_error:
            return Verdict(_usage(event.usage), _server_error(body))
        return Verdict(_usage(event.usage))


class StreamInspector:
    """For server-sent events, in either format."""

    __slots__ = ("_format", "_head", "_size", "_tail", "_tail_size")

    def __init__(self, wire_format: WireFormat) -> None:
        self._format = wire_format
        self._head = b""
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._size = 0

    def feed(self, data: bytes) -> None:
        """The next bytes of the stream."""
        if self._size < HEAD_BYTES:
            self._head += data[: HEAD_BYTES - self._size]
        size = len(data)
        self._size += size
        tail = self._tail
        tail.append(data)
        self._tail_size += size
        while self._tail_size - len(tail[0]) >= TAIL_BYTES:
            self._tail_size -= len(tail.popleft())

    def verdict(self) -> Verdict:
        """A success has a finish reason and the terminal marker of its format, and no error."""
        if self._format is WireFormat.ANTHROPIC:
            return self._anthropic()
        return self._openai()

    def _openai(self) -> Verdict:
        done = False
        usage: _AnyUsage | None = None
        for event_name, data in self._events_from_the_end():
            if data == b"[DONE]":
                done = True
                continue
            event = _decode(data)
            if event_name == b"error" or (event is not None and event.is_error):
                return Verdict(_usage(usage), _server_error(data))
            if event is None:
                continue
            usage = usage or event.usage
            reason = next((c.finish_reason for c in event.choices or () if c.finish_reason), None)
            if reason == "error":
                return Verdict(_usage(usage), _server_error(data))
            if reason and done:
                return Verdict(_usage(usage))
            if reason:
                break
        else:
            if (
                done and self._size > TAIL_BYTES
            ):  # a last delta bigger than the tail held the reason
                return Verdict(_usage(usage))
        return Verdict(_usage(usage), self._early_end("data: [DONE]"))

    def _anthropic(self) -> Verdict:
        stopped = False
        for event_name, data in self._events_from_the_end():
            event = _decode(data)
            if event_name == b"error" or (event is not None and event.is_error):
                return Verdict(self._anthropic_usage(None), _server_error(data))
            if event is None:
                continue
            stopped = stopped or event.type == "message_stop"
            if event.type == "message_delta":
                failure = None if stopped else self._early_end("message_stop")
                return Verdict(self._anthropic_usage(event.usage), failure)
        return Verdict(self._anthropic_usage(None), self._early_end("message_stop"))

    def _anthropic_usage(self, final: _AnyUsage | None) -> Usage:
        """`message_start` has the prompt; `message_delta` the answer, and may correct both."""
        for _, data in _events(self._head.split(b"\n")):
            event = _decode(data)
            if event is not None and isinstance(event.message, _Message):
                return _usage(event.message.usage, final)
        return _usage(final)

    def _early_end(self, marker: str) -> Failure:
        if not self._size:
            return Failure(ErrorCode.INVALID_RESPONSE, "the server sent an empty stream")
        return Failure(ErrorCode.INVALID_RESPONSE, f"the server's stream ended without {marker}")

    def _events_from_the_end(self) -> Iterator[tuple[bytes, bytes]]:
        tail = b"".join(self._tail)[-TAIL_BYTES:]
        return reversed(list(_events(tail.split(b"\n"))))


def _events(lines: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """(event name, data) of each `data:` line; the name is b"" where there is none."""
    name = b""
    for line in lines:
        field, _, value = line.rstrip(b"\r").partition(b":")
        if field == b"data":
            yield name, value.strip()
        elif field == b"event":
            name = value.strip()
        elif not field and not value:
            name = b""
