"""Decides from the events of a stream whether the response is complete, and finds its usage.

=========================  ====================================================  ===================
operations                 complete with                                         usage in
=========================  ====================================================  ===================
chat, completions          `data: [DONE]`, or a finish reason for every choice   `usage`, the last
                           (forks of llama.cpp, TGI and some gateways send no    one
                           `[DONE]`)
messages                   `message_stop`, or `message_delta` with a             `message_start` and
                           `stop_reason`                                         `message_delta`
responses                  `response.completed`, `response.incomplete` or        `response.usage`
                           `response.done`
=========================  ====================================================  ===================

A stream with an error event is a failure with that error, whatever follows. A stream with neither
an error nor one of these ends is truncated: a killed runner of Ollama ends its body like that. An
end of chat, completions or messages without any output before it does not complete a response.

Only the last kilobytes of a stream may be known. A choice without an event in these is assumed to
have finished earlier, and the unknown bytes before them count as output. The usage of
`message_start` is read by the validator, which keeps the first bytes.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec import Struct

from provider_agent.adapters.responses.event_parser import ServerSentEvent
from provider_agent.adapters.responses.events import (
    RESPONSES_TERMINAL,
    Event,
    ResponseFailure,
    decode_event,
    event_failure,
)
from provider_agent.adapters.responses.usage import Counts
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation

_OTHER_INDEX: Final = re.compile(rb'"index"(?!: ?0[,}])')
"""Occurs if an event has another choice than 0, and also in some events without one."""


class StreamEnd(Struct, frozen=True):
    """What the last events of a stream show.

    Attributes:
        reports: the counts that they report, in order; a later one overrides an earlier one.
        failure: why the response failed; None if it is complete.
        error_relayed: whether the failure is an error event that ends with a blank line. A client
            ignores an event without one.
        choices: the number of choices of chat or completions; 1 for other operations.
        is_final: whether earlier events, if none of them is an error, could change only `choices`.
    """

    reports: list[Counts]
    failure: ResponseFailure | None = None
    error_relayed: bool = False
    choices: int = 1
    is_final: bool = False


def stream_end(
    operation: Operation, events: Sequence[ServerSentEvent], *, is_whole: bool
) -> StreamEnd:
    """Decide whether a stream is complete.

    Args:
        operation: the operation of the response.
        events: its last events.
        is_whole: whether they are all events of the stream.
    """
    data = b"\n".join([event.data for event in events])
    reported = _last_error(events, data)
    failure = None if reported is None else reported[1]
    if operation is Operation.MESSAGES:
        reports, complete = _messages_end(events, has_output=not is_whole)
        missing, choices = "message_stop", 1
        is_final = complete and any("output" in report for report in reports)
    elif operation is Operation.RESPONSES:
        reports, complete = _responses_end(events)
        missing, choices = "response.completed", 1
        is_final = complete and bool(reports)
    else:
        reports = _last_usage(events)
        one_choice = not _OTHER_INDEX.search(data)
        complete, choices = _choices_end(events, has_output=not is_whole, one_choice=one_choice)
        missing = "a finish reason or data: [DONE]"
        is_final = complete and any(map(_is_full, reports)) and events[-1].data == b"[DONE]"
    if failure is None and not complete:
        text = f"the server's stream ended without {missing}"
        failure = ResponseFailure(ErrorCode.INVALID_RESPONSE, text)
    relayed = reported is not None and reported[0].complete
    return StreamEnd(reports, failure, relayed, choices, is_final)


def final_words(operation: Operation) -> Iterable[bytes]:
    """Return words of which each final event has one; other events may have them, too."""
    if operation is Operation.MESSAGES:
        return (b"message_stop",)
    if operation is Operation.RESPONSES:
        return map(str.encode, RESPONSES_TERMINAL)
    return (b"[DONE]",)


def is_final_event(operation: Operation, event: ServerSentEvent) -> bool:
    """Whether a server sends nothing after this event, except the end of the response."""
    if not event.complete:
        return False
    if operation is Operation.MESSAGES:
        decoded = decode_event(event.data, event.name)
        return decoded is not None and decoded.type == "message_stop"
    if operation is Operation.RESPONSES:
        decoded = decode_event(event.data, event.name)
        return decoded is not None and decoded.type in RESPONSES_TERMINAL
    return event.data.strip() == b"[DONE]"


def _last_error(
    events: Sequence[ServerSentEvent], data: bytes
) -> tuple[ServerSentEvent, ResponseFailure] | None:
    """Return the last event with an error, and that error; `data` is that of all events."""
    if not has_error_word(data) and not has_error_word(b"".join([one.name for one in events])):
        return None
    for event in reversed(events):
        if has_error_word(event.data) or (event.name and has_error_word(event.name)):
            failure = event_failure(event.name, event.data)
            if failure is not None:
                return event, failure
    return None


def has_error_word(data: bytes) -> bool:
    """Whether `data` may report an error: each error has one of these words. Decoding is slower."""
    # `in` is slow for bytes: it raises an exception internally, because it also finds integers.
    return data.find(b"error") >= 0 or data.find(b"failed") >= 0 or data.find(b"cancelled") >= 0


def _decoded(events: Iterable[ServerSentEvent], needle: bytes) -> Iterator[Event]:
    """Decode the events with `needle` in their name or data."""
    for event in events:
        if event.data.find(needle) >= 0 or event.name.find(needle) >= 0:
            decoded = decode_event(event.data, event.name)
            if decoded is not None:
                yield decoded


def _choices_end(
    events: Sequence[ServerSentEvent], *, has_output: bool, one_choice: bool
) -> tuple[bool, int]:
    """Return whether chat or completions are complete, and the number of choices.

    Args:
        events: the last events of the stream.
        has_output: whether output precedes these events.
        one_choice: whether no event has another choice than 0.
    """
    done = False
    seen: set[bytes] = set()
    finished: set[bytes] = set()
    for event in reversed(events):
        if event.data.strip() == b"[DONE]":
            done = True
        elif (
            event.data.find(b'"choices"') >= 0 and (decoded := decode_event(event.data)) is not None
        ):
            for choice in decoded.choices or ():
                index = bytes(choice.index)
                seen.add(index)
                if choice.finish_reason:
                    finished.add(index)
            if one_choice and (finished or (done and seen)):
                break  # earlier events cannot change the result
    if done:
        return has_output or bool(seen), max(len(seen), 1)
    return bool(seen) and seen == finished, max(len(seen), 1)


def _last_usage(events: Sequence[ServerSentEvent]) -> list[Counts]:
    """Return the usage reports, starting at the last one with both prompt and output counts.

    Ollama's chunks before the last one may report zeros.
    """
    reports: list[Counts] = []
    for decoded in _decoded(reversed(events), b'"usage"'):
        counts = decoded.usage
        if any(counts.values()):
            reports.insert(0, counts)
        if _is_full(counts):
            break
    return reports


def _is_full(counts: Counts) -> bool:
    return bool(counts.get("prompt") and counts.get("output"))


def _messages_end(
    events: Sequence[ServerSentEvent], *, has_output: bool
) -> tuple[list[Counts], bool]:
    """Return the counts of all `message_delta` events, and whether the message is complete.

    Args:
        events: the last events of the stream.
        has_output: whether output precedes these events. Each object but `message_stop` counts as
            output, too.
    """
    reports: list[Counts] = []
    stopped = False
    ends = 0
    for decoded in _decoded(events, b"message_"):
        if decoded.type == "message_delta":
            reports.append(decoded.usage)
            stopped = stopped or decoded.stop_reason is not None
        elif decoded.type == "message_stop":
            stopped = True
            ends += 1
    has_output = has_output or sum(b"{" in event.data for event in events) > ends
    return reports, stopped and has_output


def _responses_end(events: Sequence[ServerSentEvent]) -> tuple[list[Counts], bool]:
    """Return the last counts of Responses, and whether the response is complete."""
    reports: list[Counts] = []
    for decoded in _decoded(reversed(events), b"response."):
        if not reports and (counts := decoded.inner_usage):
            reports = [counts]
        if decoded.type in RESPONSES_TERMINAL:
            return reports, True
    return reports, False
