"""Judges a response from a copy of its bytes: did it succeed, and what did it use?

HTTP 200 says nothing: servers report errors inside a stream, or just stop. What tells is at the
ends of the response, so an inspector keeps the first and the last kilobytes of a stream, decodes
nothing while bytes flow, and judges once at the end. What it sees does not depend on how the bytes
were cut into chunks.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final, Protocol

from msgspec import Struct

from provider_agent.adapters.responses.events import (
    Event,
    Failure,
    Usage,
    UsageReport,
    decode_event,
    event_failure,
    events_in,
    merged_usage,
)
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation

HEAD_BYTES: Final = 8 * 1024
"""Where `message_start` stands: the first event, with the usage of the prompt."""

TAIL_BYTES: Final = 32 * 1024
"""Where the last events stand: a last delta (with a whole tool call in it at some servers), the
finish reason, usage, the terminal marker, or an error."""

WHOLE_TAIL_BYTES: Final = 2 * 1024 * 1024
"""The same for Responses, whose last event repeats the whole answer."""

BODY_BYTES: Final = 8 * 1024 * 1024
"""The biggest response in one piece that is judged; of a bigger one the usage stays unknown."""


class Verdict(Struct, frozen=True):
    """What a complete response was.

    Attributes:
        usage: the tokens it reports.
        failure: None for a success.
    """

    usage: Usage
    failure: Failure | None = None


class ResponseValidator(Protocol):
    """Sees a copy of every byte; never changes one."""

    def feed(self, data: bytes) -> None:
        """The next bytes of the response."""
        ...

    def verdict(self) -> Verdict:
        """What the response was; called once, after its last byte."""
        ...


def is_event_stream(content_type: str) -> bool:
    """Whether a response of this content type is server-sent events."""
    return content_type.partition(";")[0].strip().lower() == "text/event-stream"


def validator_for(operation: Operation, content_type: str) -> ResponseValidator:
    """The inspector for a response of this content type."""
    return StreamValidator(operation) if is_event_stream(content_type) else BodyValidator()


class BodyValidator:
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
        event = decode_event(body)
        if event is None:
            text = "the server's answer is not a JSON object"
            return Verdict(Usage(), Failure(ErrorCode.INVALID_RESPONSE, text))
        return Verdict(merged_usage(event.usage), event_failure(b"", body, event))


class StreamValidator:
    """For server-sent events of any operation."""

    __slots__ = ("_head", "_operation", "_size", "_tail", "_tail_bytes", "_tail_size")

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self._tail_bytes = WHOLE_TAIL_BYTES if operation is Operation.RESPONSES else TAIL_BYTES
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
        while self._tail_size - len(tail[0]) >= self._tail_bytes:
            self._tail_size -= len(tail.popleft())

    def verdict(self) -> Verdict:
        """A success has the terminal marker of its operation, and no error."""
        if not self._size:
            text = "the server sent an empty stream"
            return Verdict(Usage(), Failure(ErrorCode.INVALID_RESPONSE, text))
        if self._operation is Operation.MESSAGES:
            return self._messages()
        if self._operation is Operation.RESPONSES:
            return self._responses()
        return self._choices()

    def _choices(self) -> Verdict:
        """Chat and completions: a finish reason, then `[DONE]`."""
        done = False
        # A last delta bigger than the tail may hold the reason, unless another delta follows it.
        cut = self._size > self._tail_bytes
        usage: UsageReport | None = None
        for name, data, event in self._from_the_end():
            if data == b"[DONE]":
                done = True
                continue
            failure = event_failure(name, data, event)
            usage = usage or (event.usage if event else None)
            if failure is not None:
                return Verdict(merged_usage(usage), failure)
            if event is not None and event.finish_reason:
                return Verdict(merged_usage(usage), None if done else _early_end("data: [DONE]"))
            cut = cut and not (event and event.choices and event.usage is None)
        failure = None if done and cut else _early_end("a finish reason")
        return Verdict(merged_usage(usage), failure)

    def _messages(self) -> Verdict:
        """Messages: `message_delta` with the usage, then `message_stop`."""
        stopped = False
        for name, data, event in self._from_the_end():
            failure = event_failure(name, data, event)
            if failure is not None:
                return Verdict(self._messages_usage(None), failure)
            if event is None:
                continue
            stopped = stopped or event.type == "message_stop"
            if event.type == "message_delta":
                failure = None if stopped else _early_end("message_stop")
                return Verdict(self._messages_usage(event.usage), failure)
        return Verdict(self._messages_usage(None), _early_end("message_stop"))

    def _messages_usage(self, final: UsageReport | None) -> Usage:
        """`message_start` has the prompt; `message_delta` the answer, and may correct it."""
        for _, data in events_in(self._head):
            event = decode_event(data)
            start = event.inner_usage if event is not None else None
            if start is not None:
                start.output_tokens = None  # nothing is answered yet: a placeholder
                return merged_usage(start, final)
        return merged_usage(final)

    def _responses(self) -> Verdict:
        """Responses: `response.completed`, or `response.incomplete` at the token limit."""
        for name, data, event in self._from_the_end():
            failure = event_failure(name, data, event)
            if failure is not None:
                return Verdict(Usage(), failure)
            if event is not None and event.type in ("response.completed", "response.incomplete"):
                return Verdict(merged_usage(event.inner_usage))
        return Verdict(Usage(), _early_end("response.completed"))

    def _from_the_end(self) -> Iterator[tuple[bytes, bytes, Event | None]]:
        """(event name, data, decoded) of each event in the tail, the last one first."""
        tail = b"".join(self._tail)[-self._tail_bytes :]
        for name, data in reversed(list(events_in(tail))):
            yield name, data, decode_event(data)


def _early_end(marker: str) -> Failure:
    return Failure(ErrorCode.INVALID_RESPONSE, f"the server's stream ended without {marker}")
