"""The rules are those of WHATWG HTML, section 9.2.6 (interpreting an event stream)."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from provider_agent.adapters.responses.event_parser import (
    EventParser,
    ServerSentEvent,
    parse_events,
)
from provider_agent.adapters.responses.events import decode_event, event_failure

STREAMS: dict[str, tuple[bytes, list[tuple[bytes, bytes]]]] = {
    "empty": (b"", []),
    "a comment": (b": comment\n\n", []),
    "one line": (b"data: a\n\n", [(b"", b"a")]),
    "CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [(b"", b"a"), (b"", b"b")]),
    "CR": (b"data: a\r\rdata: b\r\r", [(b"", b"a"), (b"", b"b")]),
    "mixed line ends": (b"data: a\r\n\rdata: b\n\r\n", [(b"", b"a"), (b"", b"b")]),
    "one space is removed": (b"data:a\n\ndata:  b \n\n", [(b"", b"a"), (b"", b" b ")]),
    "several data lines": (b"data: a\ndata:\ndata: b\n\n", [(b"", b"a\n\nb")]),
    "a name": (b"event: x\ndata: a\n\ndata: b\n\n", [(b"x", b"a"), (b"", b"b")]),
    "a name after the data": (b"data: a\nevent: x\n\n", [(b"x", b"a")]),
    "the last name counts": (b"event: x\nevent: y\ndata: a\n\n", [(b"y", b"a")]),
    "a name without data": (b"event: x\n\ndata: a\n\n", [(b"", b"a")]),
    "other fields": (b"id: 7\nretry: 1\ndata: a\n: b\nx: c\n\n", [(b"", b"a")]),
    "no colon": (b"data\n\n", [(b"", b"")]),
    "a longer field name": (b"database: no\n\n", []),
    "a byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [(b"", b"a")]),
    "a later byte order mark": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [(b"", b"a")]),
    "colons in the value": (b"data: a: b:c\n\n", [(b"", b"a: b:c")]),
    "other line separators": (b"data: a\x0b\x0c\x1c\x85b\n\n", [(b"", b"a\x0b\x0c\x1c\x85b")]),
}
"""Name → a stream, and the name and data of each of its events."""


def pairs(events: list[ServerSentEvent]) -> list[tuple[bytes, bytes]]:
    return [(event.name, event.data) for event in events]


@pytest.mark.parametrize("name", STREAMS)
def test_stream_is_parsed_by_the_rules_of_the_whatwg(name: str) -> None:
    data, events = STREAMS[name]

    assert pairs(EventParser().receive_data(data)) == events


@pytest.mark.parametrize("name", STREAMS)
def test_stream_is_parsed_byte_by_byte(name: str) -> None:
    data, events = STREAMS[name]
    parser = EventParser()

    found = [event for at in range(len(data)) for event in parser.receive_data(data[at : at + 1])]

    assert pairs(found) == events


@pytest.mark.parametrize("cut", [b"data: a", b"data: a\n", b"data: a\r", b"event: x\ndata: a\r\n"])
def test_event_that_the_end_cuts_off_is_incomplete(cut: bytes) -> None:
    *complete, last = parse_events(b"data: b\n\n" + cut)

    assert complete == [ServerSentEvent(b"", b"b")]
    assert (last.data, last.complete) == (b"a", False)


def parse_by_definition(data: bytes) -> list[tuple[bytes, bytes]]:
    """Apply each sentence of the specification to the whole stream."""
    text = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events = []
    name = buffer = b""
    for line in text.split(b"\n")[:-1]:
        field, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if not line:
            if buffer:
                events.append((name, buffer[:-1]))
            name = buffer = b""
        elif field == b"data":
            buffer += value + b"\n"
        elif field == b"event":
            name = value
    return events


TOKENS = st.sampled_from(
    [b"\n", b"\r", b"\r\n", b":", b" ", b"data", b"event", b"data: a", b"\xef\xbb\xbf", b"x", b"\0"]
)


@given(st.lists(TOKENS, max_size=30).map(b"".join), st.lists(st.integers(0, 5)))
@example(b"data: a\r\n\r\n", [8, 1, 1])
def test_events_do_not_depend_on_the_sizes_of_the_pieces(data: bytes, sizes: list[int]) -> None:
    parser, rest, found = EventParser(), data, []

    for size in sizes:
        found += parser.receive_data(rest[:size])
        rest = rest[size:]
    found += parser.receive_data(rest)

    assert pairs(found) == parse_by_definition(data)


@given(st.binary())
def test_arbitrary_bytes_raise_nothing(data: bytes) -> None:
    for event in parse_events(data):
        decode_event(event.data)
        event_failure(event.name, event.data)


PIECES = st.sampled_from(
    [
        b"data: a",
        b"data:b",
        b"data",
        b"event: x",
        b"event:y",
        b": c",
        b"\n",
        b"\n\n",
        b"\r\n",
        b"\xef\xbb\xbf",
    ]
)


@given(st.lists(PIECES, max_size=12).map(b"".join))
def test_whole_stream_has_the_events_of_its_pieces(data: bytes) -> None:
    parser = EventParser()
    events = [event for at in range(len(data)) for event in parser.receive_data(data[at : at + 1])]
    cut_off = parser.close()

    assert parse_events(data) == (events if cut_off is None else [*events, cut_off])
