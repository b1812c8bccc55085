"""Decides from a copy of a response's bytes whether it succeeded, and reads its token usage.

HTTP 200 does not mean success: servers report errors inside a stream, or end it early. The evidence
is at both ends of the response, so a validator keeps the first and last kilobytes of a stream,
decodes nothing while bytes arrive, and decodes once at the end, even if the response was cancelled
or broke off. The result does not depend on how the bytes were split into chunks.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from provider_agent.adapters.base import ResponseOutcome
from provider_agent.adapters.responses.events import (
    Event,
    ResponseFailure,
    decode_event,
    event_failure,
    parse_events,
)
from provider_agent.adapters.responses.usage import UsageReport, merge_usage
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.event_stream import unify_line_ends
from provider_agent.protocol.formats import Operation
from provider_agent.protocol.frames import Usage

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
    """What the bytes of a response that may be incomplete show.

    Attributes:
        usage: see `ResponseOutcome`.
        error_relayed: see `ResponseOutcome`.
        between_events: see `ResponseOutcome`.
        failure: None for a complete, successful response.
    """

    usage: Usage = Usage()
    error_relayed: bool = False
    between_events: bool = True
    failure: ResponseFailure | None = None

    @property
    def outcome(self) -> ResponseOutcome:
        """The result for the sink."""
        return ResponseOutcome(self.usage, self.error_relayed, self.between_events)


class ResponseValidator(Protocol):
    """Receives a copy of every byte of one response."""

    def receive_data(self, data: bytes) -> None:
        """Add the next bytes of the response."""
        ...

    def result(self) -> ValidationResult:
        """Return the outcome of the bytes so far."""
        ...


def is_event_stream(content_type: str) -> bool:
    """Whether a response of this content type is server-sent events."""
    return content_type.partition(";")[0].strip().lower() == "text/event-stream"


def validator_for(
    operation: Operation, content_type: str, *, estimated_start: bool = False
) -> ResponseValidator:
    """Create the validator for a response of this content type.

    Args:
        operation: the operation of the response.
        content_type: the content type of the response.
        estimated_start: whether `message_start` only estimates the tokens of the prompt.
    """
    if is_event_stream(content_type):
        return StreamValidator(operation, estimated_start=estimated_start)
    return BodyValidator()


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
            return ValidationResult(between_events=False)
        body = b"".join(self._pieces)
        event = decode_event(body)
        if event is None:
            text = "the server's response is not a JSON object"
            failure = ResponseFailure(ErrorCode.INVALID_RESPONSE, text)
            return ValidationResult(between_events=not body, failure=failure)
        error = event_failure(b"", body, event)
        return ValidationResult(merge_usage(event.usage), error is not None, False, error)


class _TailEvent(Struct, frozen=True):
    """One `data:` line of the tail.

    Attributes:
        name: the value of the `event:` line, or b"".
        data: the value of the `data:` line.
        json: `data` decoded; None if `decode_event` cannot decode it.
        complete: whether a blank line follows, which ends the event.
    """

    name: bytes
    data: bytes
    json: Event | None
    complete: bool

    @property
    def failure(self) -> ResponseFailure | None:
        """The error that the event reports; None without one."""
        return event_failure(self.name, self.data, self.json)


class StreamValidator:
    """Validates server-sent events of any operation."""

    __slots__ = (
        "_estimated_start",
        "_head",
        "_operation",
        "_size",
        "_tail",
        "_tail_bytes",
        "_tail_size",
    )

    def __init__(self, operation: Operation, *, estimated_start: bool = False) -> None:
        self._operation = operation
        self._estimated_start = estimated_start
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
        tail = unify_line_ends(b"".join(self._tail)[-self._tail_bytes :])
        if self._size <= self._tail_bytes:
            tail = b"\n\n" + tail  # the start of a stream counts as the end of an event
        if tail.endswith(b"\n\n"):  # as in every complete stream; avoids a copy of megabytes
            complete, blank_line, partial = tail, True, b""
        else:
            complete, separator, partial = tail.rpartition(b"\n\n")
            blank_line = bool(separator)
        events = _from_end(complete, partial)
        if not self._size:
            text = "the server sent an empty stream"
            failure = ResponseFailure(ErrorCode.INVALID_RESPONSE, text)
            result = ValidationResult(failure=failure)
        elif self._operation is Operation.MESSAGES:
            result = self._messages_result(events)
        elif self._operation is Operation.RESPONSES:
            result = _responses_result(events)
        else:
            result = _choices_result(events, self._size > self._tail_bytes)
        return replace(result, between_events=blank_line and not partial)

    def _messages_result(self, events: Iterator[_TailEvent]) -> ValidationResult:
        """Messages ends with `message_delta`, which has the usage, then `message_stop`."""
        stopped = False
        for event in events:
            if event.failure is not None:
                deltas = (e.json for e in events if e.json and e.json.type == "message_delta")
                usage = self._messages_usage(next((delta.usage for delta in deltas), None))
                return ValidationResult(usage, event.complete, failure=event.failure)
            if event.json is None:
                continue
            stopped = stopped or event.json.type == "message_stop"
            if event.json.type == "message_delta":
                failure = None if stopped else _missing("message_stop")
                return ValidationResult(self._messages_usage(event.json.usage), failure=failure)
        usage = self._messages_usage(None)
        return ValidationResult(usage, failure=_missing("message_stop"))

    def _messages_usage(self, final: UsageReport | None) -> Usage:
        """Merge the usage of `message_start` with the final one, which may correct it.

        Without a final one, the usage is unknown if `message_start` only estimates it.
        """
        if final is None and self._estimated_start:
            return Usage()
        for _, data in parse_events(self._head):
            event = decode_event(data)
            start = event.inner_usage if event is not None else None
            if start is not None:
                start.output_tokens = None  # a placeholder: no output exists yet
                return merge_usage(start, final)
        return merge_usage(final)


def _choices_result(events: Iterator[_TailEvent], tail_is_cut: bool) -> ValidationResult:
    """Chat and completions end with a finish reason, then `[DONE]`."""
    done = False
    # If the last delta is bigger than the tail, its start is lost, possibly with the finish reason.
    # A delta that is decoded from the tail shows that the last delta is not lost.
    reason_may_be_cut = tail_is_cut
    usage: UsageReport | None = None
    for event in events:
        if event.data == b"[DONE]":
            done = True
            continue
        usage = usage or (event.json.usage if event.json else None)
        if event.failure is not None:
            # Some servers report the usage so far with each chunk.
            usage = usage or next((e.json.usage for e in events if e.json and e.json.usage), None)
            return ValidationResult(merge_usage(usage), event.complete, failure=event.failure)
        if event.json is not None and event.json.finish_reason:
            failure = None if done else _missing("data: [DONE]")
            return ValidationResult(merge_usage(usage), failure=failure)
        if event.json is not None and event.json.choices and event.json.usage is None:
            reason_may_be_cut = False
    failure = None if done and reason_may_be_cut else _missing("a finish reason")
    return ValidationResult(merge_usage(usage), failure=failure)


def _responses_result(events: Iterator[_TailEvent]) -> ValidationResult:
    """Responses ends with `response.completed`, or `response.incomplete` at the token limit."""
    usage: UsageReport | None = None
    for event in events:
        usage = usage or (event.json.inner_usage if event.json else None)
        if event.failure is not None:
            return ValidationResult(merge_usage(usage), event.complete, failure=event.failure)
        if event.json and event.json.type in ("response.completed", "response.incomplete"):
            return ValidationResult(merge_usage(usage))
    return ValidationResult(merge_usage(usage), failure=_missing("response.completed"))


def _from_end(complete: bytes, partial: bytes) -> Iterator[_TailEvent]:
    """Yield each `data:` line, the last one first.

    Args:
        complete: whole events, the first of which may lack its beginning.
        partial: the beginning of an event after them.
    """
    for part, is_complete in ((partial, False), (complete, True)):
        for name, data in reversed(list(parse_events(part))):
            yield _TailEvent(name, data, decode_event(data), is_complete)


def _missing(marker: str) -> ResponseFailure:
    return ResponseFailure(
        ErrorCode.INVALID_RESPONSE, f"the server's stream ended without {marker}"
    )
