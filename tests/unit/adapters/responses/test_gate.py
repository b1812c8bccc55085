import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.responses.gate import (
    MAX_HELD_BYTES,
    EventStreamGate,
    GateState,
    JsonGate,
    gate_for,
)
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation
from tests.kit.fakes.frames import DONE, chat_frames, message_frames, sse

UNDECIDED, OUTPUT, ERROR = GateState.UNDECIDED, GateState.OUTPUT, GateState.ERROR

BUSY = b'data: {"error":{"code":503,"message":"busy"}}\n\n'
COMMENT = b": OPENROUTER PROCESSING\n\n"
RESPONSES_START = b"".join(
    sse({"type": name, "response": {"instructions": "x" * 1000}}, name)
    for name in ("response.queued", "response.created", "response.in_progress")
)
PING = b'event: ping\ndata: {"type":"ping"}\n\n'

STREAMS = {
    "empty": (b"", UNDECIDED),
    "a comment": (COMMENT, UNDECIDED),
    "comments": (COMMENT * 20, UNDECIDED),
    "a ping": (PING, UNDECIDED),
    "terminal marker only": (DONE, UNDECIDED),
    "fields without data": (b"id: 7\nretry: 10\nevent: message_start\n\n", UNDECIDED),
    "incomplete line": (b'data: {"choices":[', UNDECIDED),
    "chat": (b"".join(chat_frames("m", usage=False)), OUTPUT),
    "messages": (b"".join(message_frames("m")), OUTPUT),
    "after comments and pings": (COMMENT + PING + chat_frames("m", usage=False)[0], OUTPUT),
    "CRLF line ends": (chat_frames("m", usage=False)[0].replace(b"\n", b"\r\n"), OUTPUT),
    "no space after the colon": (b"data:{}\n\n", OUTPUT),
    "CR line ends": (chat_frames("m", usage=False)[0].replace(b"\n", b"\r"), OUTPUT),
    "JSON over several data lines": (b'data: {\ndata: "error": {}}\n\n', ERROR),
    "not JSON": (b"data: hello\n\n", OUTPUT),
    "an event without its blank line": (b"data: {}\n", UNDECIDED),
    "the start of Responses": (RESPONSES_START, UNDECIDED),
    "the start of Responses without names": (
        RESPONSES_START.replace(b"event: ", b": "),
        UNDECIDED,
    ),
    "the start of Responses without types": (
        b'event: response.created\ndata: {"response":{}}\n\n',
        UNDECIDED,
    ),
    "Responses": (
        RESPONSES_START + sse({"type": "response.output_item.added"}, "response.output_item.added"),
        OUTPUT,
    ),
    "an error after the start of Responses": (
        RESPONSES_START + sse({"type": "response.failed"}, "response.failed"),
        ERROR,
    ),
    "the word error in the text": (
        b'data: {"choices":[{"delta":{"content":"error"}}]}\n\n',
        OUTPUT,
    ),
    "an error": (BUSY, ERROR),
    "an error after comments": (COMMENT + PING + BUSY, ERROR),
    "an error before the terminal marker": (BUSY + DONE, ERROR),
    "a named error": (b"event: error\ndata: it failed\n\n", ERROR),
    "a named error, CRLF line ends": (b"event: error\r\ndata: it failed\r\n\r\n", ERROR),
    "an error with invalid UTF-8": (b'data: {"error":{"message":"\xff"}}\n\n', ERROR),
    "an event name without data": (b"event: error\n\ndata: {}\n\n", OUTPUT),
    "a failed response": (b'event: x\ndata: {"type":"response.failed"}\n\n', ERROR),
    "an error after output": (chat_frames("m", usage=False)[0] + BUSY, OUTPUT),
}
"""Name → the bytes of a stream, and the state of the gate after them."""


def feed(gate: EventStreamGate | JsonGate, data: bytes, sizes: list[int]) -> GateState:
    """Pass `data` in pieces until the gate decides, as the relay does."""
    state, at = UNDECIDED, 0
    for size in [*sizes, len(data)]:
        piece = data[at : at + size]
        if not piece or state is not UNDECIDED:
            break
        state = gate.receive_data(piece)
        at += size
    assert gate.held == data[: len(gate.held)]
    return state


@pytest.mark.parametrize("name", STREAMS)
def test_first_event_with_output_or_an_error_decides(name: str) -> None:
    data, expected = STREAMS[name]
    gate = EventStreamGate()

    assert feed(gate, data, []) is expected
    assert gate.held == data
    assert (gate.failure is not None) is (expected is ERROR)


def test_failure_holds_the_error_of_the_server() -> None:
    gate = EventStreamGate()
    gate.receive_data(COMMENT + BUSY)

    assert gate.failure is not None
    assert gate.failure.code is ErrorCode.BACKEND_OVERLOADED
    assert gate.failure.body == b'{"error":{"code":503,"message":"busy"}}'


CHUNK_SIZES = st.lists(st.integers(1, 200), max_size=60)


@given(st.sampled_from(sorted(STREAMS)), CHUNK_SIZES)
def test_decision_does_not_depend_on_chunk_boundaries(name: str, sizes: list[int]) -> None:
    data, expected = STREAMS[name]
    gate = EventStreamGate()

    assert feed(gate, data, sizes) is expected
    if expected is UNDECIDED:
        assert gate.held == data
    else:
        # Only a complete event decides.
        assert re.search(rb"\n\n|\r\r|\n\r", gate.held)


@given(st.lists(st.sampled_from([COMMENT, PING, DONE, b"\r\n", b": x\r\n", b"\n"])), CHUNK_SIZES)
def test_events_without_output_leave_the_gate_undecided(
    pieces: list[bytes], sizes: list[int]
) -> None:
    data = b"".join(pieces)
    gate = EventStreamGate()

    assert feed(gate, data, sizes) is UNDECIDED
    assert gate.held == data


@given(st.binary(max_size=2000), CHUNK_SIZES)
def test_decision_on_garbage_does_not_depend_on_chunk_boundaries(
    data: bytes, sizes: list[int]
) -> None:
    assert feed(EventStreamGate(), data, sizes) is feed(EventStreamGate(), data, [])


@pytest.mark.parametrize("gate", [EventStreamGate(), JsonGate()])
def test_gate_opens_above_the_limit(gate: EventStreamGate | JsonGate) -> None:
    assert gate.receive_data(b"x" * MAX_HELD_BYTES) is UNDECIDED
    assert gate.receive_data(b"x") is OUTPUT
    assert gate.failure is None


@pytest.mark.parametrize("data", [b"", b'{"error":"no"}', BUSY, b"{}"])
def test_json_gate_stays_undecided_until_the_end(data: bytes) -> None:
    gate = JsonGate()

    assert feed(gate, data, [3]) is UNDECIDED
    assert gate.held == data


def test_start_of_responses_may_repeat_a_long_request() -> None:
    created = sse({"type": "response.created", "response": {"instructions": "x" * 200_000}})
    gate = gate_for(Operation.RESPONSES, "text/event-stream")

    assert [gate.receive_data(created[at : at + 9000]) for at in range(0, len(created), 9000)] == [
        UNDECIDED
    ] * (len(created) // 9000 + 1)
