"""Validates server-sent events of any operation.

The evidence is at both ends of a stream: the validator keeps the first and last kilobytes, decodes
nothing while bytes arrive, and decodes once at the end.
"""

from collections import deque
from typing import Final

from provider_agent.adapters.responses.completeness import (
    StreamEnd,
    final_words,
    has_error_word,
    is_final_event,
    stream_end,
)
from provider_agent.adapters.responses.event_parser import parse_events
from provider_agent.adapters.responses.events import ResponseFailure, decode_event
from provider_agent.adapters.responses.json_outline import JsonOutline
from provider_agent.adapters.responses.output_size import least_tokens_in_stream
from provider_agent.adapters.responses.usage import Counts, merge_usage
from provider_agent.adapters.responses.validation_result import ValidationResult
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.event_stream import ends_between_events
from provider_agent.protocol.formats import Operation
from provider_agent.protocol.frames import Usage

HEAD_BYTES: Final = 8 * 1024
"""Holds the first event of Messages: `message_start`, with the usage of the prompt."""

SAMPLE_BYTES: Final = 1024
"""How much of the start of other streams is kept, as a sample of the sizes of events."""

TAIL_BYTES: Final = 16 * 1024
"""Holds the last events: deltas of every choice, the finish reasons, usage, the terminal marker, or
an error; long lines are shortened."""

LAST_BYTES: Final = 4 * 1024
"""The end of the tail that is decoded first; in most streams it suffices."""

LONG_LINE_BYTES: Final = 8 * 1024
"""Big values of a longer line are left out: the last event of Responses may have megabytes."""

_RECENT_READS: Final = 16
_SMALL_READ_BYTES: Final = 512
"""This many small reads are added at once, which costs little more than one alone."""

_BLOCK_BYTES: Final = LONG_LINE_BYTES // 2

_BLANK_LINES: Final = (b"\n\n", b"\n\r\n", b"\r\r")


class StreamValidator:
    """Validates server-sent events of any operation."""

    __slots__ = (
        "_dropped_bytes",
        "_estimated_start",
        "_head",
        "_head_bytes",
        "_line_bytes",
        "_operation",
        "_outline",
        "_recent",
        "_tail",
        "_tail_size",
    )

    def __init__(self, operation: Operation, *, estimated_start: bool = False) -> None:
        self._operation = operation
        self._estimated_start = estimated_start
        self._recent: list[bytes] = []
        """The last reads, which are not yet added to the rest: few large pieces cost less."""
        self._head = b""
        self._head_bytes = HEAD_BYTES if operation is Operation.MESSAGES else SAMPLE_BYTES
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._dropped_bytes = 0
        """The number of bytes that were dropped from the start of the tail."""
        self._line_bytes = 0
        """The length of the last line so far."""
        self._outline: JsonOutline | None = None
        """Shortens the last line, if it is a long one."""

    def receive_data(self, data: bytes) -> None:
        """Add the next bytes of the stream."""
        recent = self._recent
        recent.append(data)
        if len(recent) == _RECENT_READS or len(data) > _SMALL_READ_BYTES:
            self._add_recent()

    def _add_recent(self) -> None:
        """Add the last reads to head and tail, with long lines shortened."""
        if not self._recent:
            return
        data = b"".join(self._recent)
        self._recent.clear()
        size = len(data)
        if len(self._head) < self._head_bytes:
            self._head += data[: self._head_bytes - len(self._head)]
        line_bytes = self._line_bytes
        if line_bytes + size > LONG_LINE_BYTES and self._may_be_long(data):
            data = self._shorten(data)
            size = len(data)
        elif data[-1:] != b"\n":
            end = data.rfind(b"\n")
            self._line_bytes = line_bytes + size if end < 0 else size - end - 1
        elif line_bytes:
            self._line_bytes = 0
        # The last line does not count, because it will be shortened if it becomes a long one.
        most = TAIL_BYTES if self._outline is not None else TAIL_BYTES + self._line_bytes
        if size > most:  # a copy of the end, so that the whole read is not kept
            self._dropped_bytes += size - most
            data = data[-most:]
            size = most
        tail = self._tail
        tail.append(data)
        tail_size = self._tail_size + size
        while tail_size - len(tail[0]) >= most:
            dropped = len(tail.popleft())
            tail_size -= dropped
            self._dropped_bytes += dropped
        self._tail_size = tail_size

    def _may_be_long(self, data: bytes) -> bool:
        """Whether `data` may have a part of a long line; fast; True for some short ones too."""
        first = data.find(b"\n")
        if first < 0 or self._line_bytes + first > LONG_LINE_BYTES:
            return True
        blocks = range(0, len(data) - _BLOCK_BYTES + 1, _BLOCK_BYTES)
        # A long line includes a whole block.
        return any(data.find(b"\n", at, at + _BLOCK_BYTES) < 0 for at in blocks)

    def _shorten(self, data: bytes) -> bytes:
        """Leave the big values of long lines out."""
        kept = []
        at = 0
        while at < len(data):
            if not self._line_bytes:  # whole short lines at once: a read may have thousands
                end = _end_of_lines(data, at, at + LONG_LINE_BYTES + 1)
                if end > at:
                    kept.append(data[at:end])
                    at = end
                    continue
            end = _end_of_line(data, at)
            text = data[at:end]
            length = self._line_bytes + len(text)
            if self._outline is None and length > LONG_LINE_BYTES:
                self._outline = JsonOutline()
                kept.append(self._outline.receive_data(self._take_last_line()))
            kept.append(text if self._outline is None else self._outline.receive_data(text))
            self._line_bytes = length
            at = end
            if end < len(data):
                kept.append(data[end : end + 1])
                self._line_bytes = 0
                self._outline = None
                at += 1
        return b"".join(kept)

    def _take_last_line(self) -> bytes:
        """Remove the last line from the tail and return it."""
        tail = b"".join(self._tail)
        start = len(tail) - self._line_bytes
        self._tail = deque([tail[:start]])
        self._tail_size = start
        return tail[start:]

    def is_terminated(self) -> bool:
        """Return whether the bytes so far are a success whose last event is the final one."""
        self._add_recent()
        tail = b"".join(self._tail)[-TAIL_BYTES:]
        # All events of the tail would take a millisecond, for each of the streams of a server that
        # stopped for a moment.
        events = parse_events(possible_final_event(tail, self._operation))
        return (
            bool(events)
            and is_final_event(self._operation, events[-1])
            and self.result().failure is None
        )

    def result(self) -> ValidationResult:
        """Return the outcome of the bytes so far."""
        self._add_recent()
        if not self._head:
            text = "the server sent an empty stream"
            return ValidationResult(failure=ResponseFailure(ErrorCode.INVALID_RESPONSE, text))
        tail = b"".join(self._tail)[-TAIL_BYTES:]
        bytes_before_tail = self._dropped_bytes + self._tail_size - len(tail)
        is_whole = bytes_before_tail == 0
        end = self._quick_end(tail)
        if end is None:
            end = stream_end(self._operation, parse_events(tail), is_whole=is_whole)
        before = b"\n\n" if is_whole else b""  # the start counts as an event boundary
        usage = self._usage(end.reports)
        is_certain = usage.output_tokens is not None and end.choices == 1
        least = 0
        if not is_certain:
            least = least_tokens_in_stream(
                self._operation, self._head, bytes_before_tail, tail, end.choices
            )
        return ValidationResult(
            usage,
            least,
            end.error_relayed,
            ends_between_events(before + tail[-4:]),
            end.failure,
        )

    def _quick_end(self, tail: bytes) -> StreamEnd | None:
        """Return what the last events show, if earlier ones cannot change it."""
        # `"index":1` may be a second choice. Choices are counted, so all known events are needed.
        several = self._operation in (Operation.CHAT, Operation.COMPLETIONS) and (
            tail.find(b'"index":1') >= 0 or tail.find(b'"index": 1') >= 0
        )
        if len(tail) <= LAST_BYTES or several or has_error_word(tail):
            return None
        end = stream_end(self._operation, parse_events(tail[-LAST_BYTES:]), is_whole=False)
        return end if end.is_final else None

    def _usage(self, reports: list[Counts]) -> Usage:
        """Merge the reports at the end with that of `message_start`, which they may correct.

        Without reports at the end, the usage is unknown if `message_start` only estimates it.
        """
        if self._operation is not Operation.MESSAGES:
            return merge_usage(*reports)
        if self._estimated_start and not any(reports):
            return Usage()
        for event in parse_events(self._head):
            decoded = decode_event(event.data)
            if decoded is not None and (start := decoded.inner_usage):
                start.pop("output", None)  # a placeholder: no output exists yet
                return merge_usage(start, *reports)
        return merge_usage(*reports)


def possible_final_event(tail: bytes, operation: Operation) -> bytes:
    """Return the event that may be the final one, and what follows it; empty: there is none."""
    word_at = max(map(tail.rfind, final_words(operation)))
    if word_at < 0:
        return b""
    start = max(tail.rfind(blank, 0, word_at) for blank in _BLANK_LINES)
    return tail[max(start, 0) :]


def _end_of_lines(data: bytes, start: int, stop: int) -> int:
    """Return where the last complete line between `start` and `stop` ends; 0: there is none."""
    return max(data.rfind(b"\n", start, stop), data.rfind(b"\r", start, stop)) + 1


def _end_of_line(data: bytes, start: int) -> int:
    """Return where the text of a line ends: before its CR or LF, or at the end of `data`."""
    feed = data.find(b"\n", start)
    end = feed if feed >= 0 else len(data)
    carriage_return = data.find(b"\r", start, end)
    return carriage_return if carriage_return >= 0 else end
