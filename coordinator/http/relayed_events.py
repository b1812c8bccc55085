"""Watches a relayed event stream: where it can be continued, and how it ended."""

from typing import Any, Final

import msgspec
from msgspec import Struct

from provider_agent.protocol.event_stream import ends_between_events, unify_line_ends

MAX_EVENT_BYTES: Final = 16 * 1024
"""How much of an incomplete event is kept between two pieces: its start, which has the name, and
its last bytes. The middle of a longer event is lost."""

_TAIL_BYTES: Final = 4  # the longest terminator of an event: CR LF CR LF

_MAX_KEPT_BYTES: Final = 4096
"""The largest piece of whole events that is kept as it is, until the next one. An event of text has
less."""

_ERROR_TYPES: Final = frozenset({"error", "response.failed"})
"""The names of events that report an error: of Anthropic, and of the OpenAI Responses API."""

_FINAL_TYPES: Final = frozenset({"message_stop", "response.completed", "response.incomplete"})
"""The names of events after which none follows: of Anthropic, and of the OpenAI Responses API."""

_DONE: Final = b"[DONE]"
"""The data of the last event of OpenAI's other operations."""


class _Event(Struct):
    type: Any = None
    error: Any = None
    sequence_number: Any = None


class RelayedEvents:
    """Reads the bytes of an event stream (WHATWG HTML, section 9.2.6) as they are relayed."""

    __slots__ = ("_events", "_has_error", "_partial", "_tail")

    def __init__(self) -> None:
        self._has_error = False
        self._tail = b""
        self._partial = b""
        """The start of the event that is not yet complete, with unified line ends."""
        self._events = b""
        """The latest complete events, decoded only if the stream breaks."""

    def __repr__(self) -> str:
        return f"<RelayedEvents error={self._has_error} between_events={self.between_events}>"

    @property
    def between_events(self) -> bool:
        """Whether an event can follow: the last one is complete."""
        return ends_between_events(self._tail)

    def error_relayed(self) -> bool:
        """Whether an event reported an error to the client. Call it after the last byte."""
        self._read(unify_line_ends(self._partial))
        return self._has_error

    def next_sequence_number(self) -> int:
        """Return the sequence number that follows the last event's; 0 if that has none.

        Call it after the last byte.
        """
        number = _decode(self._last_event()).sequence_number
        return number + 1 if isinstance(number, int) else 0

    def final_event_relayed(self) -> bool:
        """Whether the last event ends the stream. Call it after the last byte."""
        event = self._last_event()
        return _data(event).strip() == _DONE or not _FINAL_TYPES.isdisjoint(_types(event))

    def _last_event(self) -> bytes:
        self._read(unify_line_ends(self._partial))
        events = self._events.rstrip(b"\n")
        return events[events.rfind(b"\n\n") + 1 :]

    def add(self, piece: bytes) -> None:
        """Read the next bytes."""
        if (
            not self._partial
            and piece.endswith(b"\n\n")
            and len(piece) <= _MAX_KEPT_BYTES
            and b"\r" not in piece
            and not _may_have_error(piece)
        ):
            self._tail = b"\n\n"
            self._events = piece
            return
        self._tail = (self._tail + piece[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        data = self._partial + piece
        if b"\r" in data:
            # A CR at the end may be half of a CRLF.
            whole = data.removesuffix(b"\r")
            data = unify_line_ends(whole) + data[len(whole) :]
        self._read(data)

    def _read(self, data: bytes) -> None:
        start = data.rfind(b"\n\n") + 2
        if start > 1:
            events = data[: start - 2]
            if not self._has_error and _may_have_error(events):
                self._has_error = any(map(_is_error, events.split(b"\n\n")))
            self._events = events[events.rfind(b"\n\n") + 1 :]
            data = data[start:]
        if len(data) > MAX_EVENT_BYTES:
            # The last two bytes, such as LF CR, decide whether the next byte ends the event. The
            # start before them must not end in LF: LF LF would end the event here.
            data = data[: MAX_EVENT_BYTES - 2].rstrip(b"\n") + data[-2:]
        self._partial = data


def _may_have_error(events: bytes) -> bool:
    return b"error" in events or b"response.failed" in events


def _is_error(event: bytes) -> bool:
    return not _ERROR_TYPES.isdisjoint(_types(event)) or _decode(event).error is not None


def _types(event: bytes) -> list[str]:
    """Return the name of an event, and the `type` in its data."""
    names = [line[6:].strip() for line in event.split(b"\n") if line.startswith(b"event:")]
    types = [names[-1].decode("utf-8", "replace")] if names else []
    declared = _decode(event).type
    return [*types, declared] if isinstance(declared, str) else types


def _data(event: bytes) -> bytes:
    return b"\n".join(line[5:] for line in event.split(b"\n") if line.startswith(b"data:"))


def _decode(event: bytes) -> _Event:
    """Return the fields of an event's data; empty if it is not a JSON object."""
    try:
        return msgspec.json.decode(_data(event), type=_Event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Event()
