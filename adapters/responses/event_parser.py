"""Parses server-sent events by the rules of the WHATWG (HTML, section 9.2.6). No I/O.

LF, CRLF and CR end a line. A blank line ends an event. Several `data` lines of an event are joined
with LF. One space after the colon is not part of the value; a line without a colon is a field
without a value. A byte order mark at the start, comments and other fields are ignored.
"""

from typing import Final

from msgspec import Struct

_LF, _CR = b"\n\r"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class ServerSentEvent(Struct, frozen=True):
    """One event with data.

    Attributes:
        name: the value of its last `event` field, or b"".
        data: its data.
        complete: whether a blank line ended it. A client ignores an event without one.
    """

    name: bytes
    data: bytes
    complete: bool = True


class EventParser:
    """Parses a stream in pieces of any size; the events do not depend on the sizes."""

    __slots__ = ("_after_cr", "_at_start", "_data", "_name", "_partial_line")

    def __init__(self) -> None:
        self._at_start = True
        self._after_cr = False
        self._partial_line: list[bytes] = []
        self._name = b""
        self._data: list[bytes] = []

    def receive_data(self, data: bytes) -> list[ServerSentEvent]:
        """Add the next bytes and return the events that they complete."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")  # the line ended with CRLF, split between two pieces
        if not data:
            return []
        self._after_cr = data.endswith(b"\r")
        lines = data.splitlines()
        if self._partial_line:
            self._partial_line.append(lines[0])
            if len(lines) > 1 or data.endswith((b"\n", b"\r")):
                lines[0] = b"".join(self._partial_line)
                self._partial_line = []
            else:
                lines.clear()
        if lines and not data.endswith((b"\n", b"\r")):
            self._partial_line.append(lines.pop())
        events = []
        for line in lines:
            if line:
                self._receive_line(line)
            elif (event := self._dispatch(complete=True)) is not None:
                events.append(event)
        return events

    def close(self) -> ServerSentEvent | None:
        """Return the event that the end of the stream cuts off; None without one."""
        if self._partial_line:
            self._receive_line(b"".join(self._partial_line))
            self._partial_line = []
        return self._dispatch(complete=False)

    def _receive_line(self, line: bytes) -> None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
        elif field == b"event":
            self._name = value.removeprefix(b" ")

    def _dispatch(self, *, complete: bool) -> ServerSentEvent | None:
        self._at_start = False
        name, data = self._name, self._data
        self._name, self._data = b"", []
        return ServerSentEvent(name, b"\n".join(data), complete) if data else None


def parse_events(data: bytes) -> list[ServerSentEvent]:
    """Return all events of a stream, also one that the end of `data` cuts off."""
    if _CR in data or data.find(_BYTE_ORDER_MARK) >= 0:
        return _parse([], data)
    # The usual stream: LF ends the lines, and an event is a block of one or two known lines.
    *blocks, rest = data.split(b"\n\n")
    events: list[ServerSentEvent] = []
    for block in blocks:
        name, value = b"", block
        if block.startswith(b"event: "):
            name, _, value = block[7:].partition(b"\n")
        if value.startswith(b"data: ") and _LF not in value:
            events.append(ServerSentEvent(name, value[6:]))
        else:
            _parse(events, block + b"\n\n")
    return _parse(events, rest) if rest else events


def _parse(events: list[ServerSentEvent], data: bytes) -> list[ServerSentEvent]:
    """Add all events of `data` to a list, and return the list."""
    parser = EventParser()
    events += parser.receive_data(data)
    cut_off = parser.close()
    if cut_off is not None:
        events.append(cut_off)
    return events
