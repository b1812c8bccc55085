"""Decides from a copy of a response's bytes whether it succeeded, and reads its token usage.

HTTP 200 does not mean success: servers report errors inside a stream, or end it early. The evidence
is at both ends of the response, so a validator keeps the first and last kilobytes of a stream,
decodes nothing while bytes arrive, and decodes once at the end. The result does not depend on how
the bytes were split into chunks.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final, Protocol

from msgspec import Struct

from provider_agent.adapters.responses.events import (
    Event,
    ResponseFailure,
    Usage,
    UsageReport,
    decode_event,
    event_failure,
    merge_usage,
    parse_events,
)
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation

HEAD_BYTES: Final = 8 * 1024
"""Holds the first event; in Messages this is `message_start`, with the usage of the prompt."""

TAIL_BYTES: Final = 32 * 1024
"""Holds the last events: the last delta (on some servers with a whole tool call), the finish
reason, usage, the terminal marker, or an error."""

RESPONSES_TAIL_BYTES: Final = 2 * 1024 * 1024
"""The same for Responses, whose last event repeats the whole response."""

BODY_BYTES: Final = 8 * 1024 * 1024
"""The biggest JSON response that is decoded; a bigger one counts as a success of unknown usage."""


class ValidationResult(Struct, frozen=True):
    """The outcome of a complete response.

    Attributes:
        usage: the tokens that it reports.
        failure: None for a success.
    """

    usage: Usage
    failure: ResponseFailure | None = None


class ResponseValidator(Protocol):
    """Receives a copy of every byte of one response."""

    def receive_data(self, data: bytes) -> None:
        """Add the next bytes of the response."""
        ...

    def result(self) -> ValidationResult:
        """Return the outcome; called once, after the last byte."""
        ...


def is_event_stream(content_type: str) -> bool:
    """Whether a response of this content type is server-sent events."""
    return content_type.partition(";")[0].strip().lower() == "text/event-stream"


def validator_for(operation: Operation, content_type: str) -> ResponseValidator:
    """Create the validator for a response of this content type."""
    return StreamValidator(operation) if is_event_stream(content_type) else BodyValidator()


class BodyValidator:
    """Validates a response that is one JSON object."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def receive_data(self, data: bytes) -> None:
        """Add the next bytes of the response."""
        self._size += len(data)
        if self._size <= BODY_BYTES:
            self._pieces.append(data)
        else:
            self._pieces.clear()

    def result(self) -> ValidationResult:
        """Return a success for one JSON object without an error."""
        if self._size > BODY_BYTES:
            return ValidationResult(Usage())
        body = b"".join(self._pieces)
        event = decode_event(body)
        if event is None:
            text = "the server's response is not a JSON object"
            return ValidationResult(Usage(), ResponseFailure(ErrorCode.INVALID_RESPONSE, text))
        return ValidationResult(merge_usage(event.usage), event_failure(b"", body, event))


class StreamValidator:
    """Validates server-sent events of any operation."""

    __slots__ = ("_head", "_operation", "_size", "_tail", "_tail_bytes", "_tail_size")

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self._tail_bytes = RESPONSES_TAIL_BYTES if operation is Operation.RESPONSES else TAIL_BYTES
        self._head = b""
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._size = 0

    def receive_data(self, data: bytes) -> None:
        """Add the next bytes of the stream."""
        if self._size < HEAD_BYTES:
            self._head += data[: HEAD_BYTES - self._size]
        size = len(data)
        self._size += size
        tail = self._tail
        tail.append(data)
        self._tail_size += size
        while self._tail_size - len(tail[0]) >= self._tail_bytes:
            self._tail_size -= len(tail.popleft())

    def result(self) -> ValidationResult:
        """Return a success for a stream with a terminal marker and without an error."""
        if not self._size:
            text = "the server sent an empty stream"
            return ValidationResult(Usage(), ResponseFailure(ErrorCode.INVALID_RESPONSE, text))
        if self._operation is Operation.MESSAGES:
            return self._messages_result()
        if self._operation is Operation.RESPONSES:
            return self._responses_result()
        return self._choices_result()

    def _choices_result(self) -> ValidationResult:
        """Chat and completions end with a finish reason, then `[DONE]`."""
        done = False
        # A last delta bigger than the tail may hold the reason, unless another delta follows it.
        reason_may_be_cut = self._size > self._tail_bytes
        usage: UsageReport | None = None
        for name, data, event in self._events_from_end():
            if data == b"[DONE]":
                done = True
                continue
            failure = event_failure(name, data, event)
            usage = usage or (event.usage if event else None)
            if failure is not None:
                return ValidationResult(merge_usage(usage), failure)
            if event is not None and event.finish_reason:
                return ValidationResult(
                    merge_usage(usage), None if done else _missing("data: [DONE]")
                )
            if event is not None and event.choices and event.usage is None:
                reason_may_be_cut = False
        failure = None if done and reason_may_be_cut else _missing("a finish reason")
        return ValidationResult(merge_usage(usage), failure)

    def _messages_result(self) -> ValidationResult:
        """Messages ends with `message_delta`, which has the usage, then `message_stop`."""
        stopped = False
        for name, data, event in self._events_from_end():
            failure = event_failure(name, data, event)
            if failure is not None:
                return ValidationResult(self._messages_usage(None), failure)
            if event is None:
                continue
            stopped = stopped or event.type == "message_stop"
            if event.type == "message_delta":
                failure = None if stopped else _missing("message_stop")
                return ValidationResult(self._messages_usage(event.usage), failure)
        return ValidationResult(self._messages_usage(None), _missing("message_stop"))

    def _messages_usage(self, final: UsageReport | None) -> Usage:
        """Merge the usage of `message_start` with the final one, which may correct it."""
        for _, data in parse_events(self._head):
            event = decode_event(data)
            start = event.inner_usage if event is not None else None
            if start is not None:
                start.output_tokens = None  # a placeholder: no output exists yet
                return merge_usage(start, final)
        return merge_usage(final)

    def _responses_result(self) -> ValidationResult:
        """Responses ends with `response.completed`, or `response.incomplete` at the token limit."""
        for name, data, event in self._events_from_end():
            failure = event_failure(name, data, event)
            if failure is not None:
                return ValidationResult(Usage(), failure)
            if event is not None and event.type in ("response.completed", "response.incomplete"):
                return ValidationResult(merge_usage(event.inner_usage))
        return ValidationResult(Usage(), _missing("response.completed"))

    def _events_from_end(self) -> Iterator[tuple[bytes, bytes, Event | None]]:
        """Yield (event name, data, decoded event) of each event in the tail, the last one first."""
        tail = b"".join(self._tail)[-self._tail_bytes :]
        for name, data in reversed(list(parse_events(tail))):
            yield name, data, decode_event(data)


def _missing(marker: str) -> ResponseFailure:
    return ResponseFailure(
        ErrorCode.INVALID_RESPONSE, f"the server's stream ended without {marker}"
    )
