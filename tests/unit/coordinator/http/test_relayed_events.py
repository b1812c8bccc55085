import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.coordinator.http.relayed_events import MAX_EVENT_BYTES, RelayedEvents

CHAT_CHUNK = b'data: {"id":"1","choices":[{"delta":{"content":"an error: {\\"error\\":1}"}}]}\n\n'
ERRORS = [
    b'data: {"error":{"message":"why"}}\n\n',
    # OpenRouter reports an error within a stream as a chunk with `error` beside `choices`.
    b'data: {"id":"1","choices":[],"error":{"code":502}}\n\n',
    b'event: error\ndata: {"type":"error","error":{"type":"api_error"}}\n\n',
    b'data: {"type":"error","error":{"type":"api_error"}}\n\n',
    b'event: response.failed\ndata: {"type":"response.failed","sequence_number":9}\n\n',
    b'data: {"sequence_number":9,"type":"response.failed"}\n\n',
    b'event:error\ndata:{"type":"error","message":"why","sequence_number":9}\n\n',
    b'event: response.failed\ndata: {"response":"' + b"x" * (2 * MAX_EVENT_BYTES) + b'"}\n\n',
]
NO_ERRORS = [
    CHAT_CHUNK,
    b'data: {"type":"response.created","response":{"error":null}}\n\n',
    b'data: {"id":"1","error":null}\n\n',
    b": error\n\n",
    b"data: error\n\n",
    b"data: [DONE]\n\n",
    b'data: {"text":"' + b"error" * MAX_EVENT_BYTES + b'"}\n\n',
]


def read(stream: bytes, cuts: list[int]) -> RelayedEvents:
    events, start = RelayedEvents(), 0
    for cut in [*sorted(cuts), len(stream)]:
        if start < cut <= len(stream):
            events.add(stream[start:cut])
            start = cut
    return events


@given(st.data())
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_result_does_not_depend_on_how_the_stream_is_cut(
    line_end: bytes, data: st.DataObject
) -> None:
    short = [event for event in ERRORS + NO_ERRORS if len(event) < 1000]
    parts = data.draw(st.lists(st.sampled_from(short), max_size=4))
    rest = data.draw(st.sampled_from([b"", b"data: {", b"event: error\n", b'data: {"error":1}\n']))
    stream = (b"".join(parts) + rest).replace(b"\n", line_end)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))

    events = read(stream, cuts)

    assert events.error_relayed() == any(part in ERRORS for part in parts)
    assert events.between_events == (not rest and bool(parts))


@pytest.mark.parametrize("event", ERRORS)
@pytest.mark.parametrize("piece_bytes", [1000, 10**6])
def test_errors_of_servers_are_recognized(event: bytes, piece_bytes: int) -> None:
    stream = CHAT_CHUNK + event + b"data: [DONE]\n\n"
    assert read(stream, list(range(0, len(stream), piece_bytes))).error_relayed()


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_error_after_a_long_event_is_recognized_wherever_the_stream_is_cut(line_end: bytes) -> None:
    # In an earlier version, a cut before the last LF of a long event with CRLF hid the next event.
    long = (b'data: {"text":"' + b"x" * MAX_EVENT_BYTES + b'"}\n\n').replace(b"\n", line_end)
    stream = long + ERRORS[0].replace(b"\n", line_end)
    for cut in range(len(long) - 5, len(long) + 2):
        assert read(stream, [cut]).error_relayed(), cut


def test_shortening_a_long_event_creates_no_blank_line() -> None:
    for line_bytes in range(MAX_EVENT_BYTES - 4, MAX_EVENT_BYTES + 1):
        start = b"data: ".ljust(line_bytes, b"x") + b"\n: comment\n"
        stream = start + b'data: {"error":1}\n\n'
        assert not read(stream, [len(start)]).error_relayed(), line_bytes


@pytest.mark.parametrize("event", NO_ERRORS)
def test_other_events_are_no_errors(event: bytes) -> None:
    stream = event + CHAT_CHUNK
    events = read(stream, list(range(0, len(stream), 1000)))
    assert not events.error_relayed()
    assert events.between_events


FINAL = [
    b"data: [DONE]\n\n",
    b"data:[DONE]\n\n",
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    b'data: {"type":"response.completed","sequence_number":9}\n\n',
    b'event: response.incomplete\ndata: {"response":"' + b"x" * (2 * MAX_EVENT_BYTES) + b'"}\n\n',
]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("final", FINAL)
@pytest.mark.parametrize("piece_bytes", [1, 1000, 10**6])
def test_the_final_event_is_recognized(final: bytes, line_end: bytes, piece_bytes: int) -> None:
    stream = (CHAT_CHUNK + final).replace(b"\n", line_end)
    cuts = list(range(0, len(stream), piece_bytes))

    assert read(stream, cuts).final_event_relayed()
    assert not read(stream[: -2 * len(line_end)], []).final_event_relayed()


@pytest.mark.parametrize("event", [*ERRORS, CHAT_CHUNK, b'data: {"text":"[DONE]"}\n\n', b""])
def test_other_events_are_not_final(event: bytes) -> None:
    assert not read(event, []).final_event_relayed()


@pytest.mark.parametrize(
    ("stream", "number"),
    [
        (b"", 0),
        (CHAT_CHUNK, 0),
        (b'data: {"sequence_number":3}\n\n', 4),
        (b'data: {"sequence_number":3}\n\ndata: {"sequence_number":4}\n\ndata: {', 5),
        (b'event: a\ndata: {"sequence_number":"x"}\n\n', 0),
    ],
)
def test_sequence_number_follows_the_last_complete_event(stream: bytes, number: int) -> None:
    assert read(stream, []).next_sequence_number() == number
