import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.responses.gate import OPENING_BYTES, BodyGate, GateState, StreamGate
from provider_agent.protocol.errors import ErrorCode
from tests.kit.fakes.frames import DONE, chat_frames, message_frames

UNDECIDED, OUTPUT, ERROR = GateState.UNDECIDED, GateState.OUTPUT, GateState.ERROR

BUSY = b'data: {"error":{"code":503,"message":"busy"}}\n\n'
COMMENT = b": OPENROUTER PROCESSING\n\n"
PING = b'event: ping\ndata: {"type":"ping"}\n\n'

STREAMS = {
    "nothing": (b"", UNDECIDED),
    "a comment": (COMMENT, UNDECIDED),
    "many comments": (COMMENT * 20, UNDECIDED),
    "a ping": (PING, UNDECIDED),
    "only the marker": (DONE, UNDECIDED),
    "fields without data": (b"id: 7\nretry: 10\nevent: message_start\n\n", UNDECIDED),
    "half a line": (b'data: {"choices":[', UNDECIDED),
    "chat": (b"".join(chat_frames("m", usage=False)), OUTPUT),
    "messages": (b"".join(message_frames("m")), OUTPUT),
    "after comments and pings": (COMMENT + PING + chat_frames("m", usage=False)[0], OUTPUT),
    "carriage returns": (chat_frames("m", usage=False)[0].replace(b"\n", b"\r\n"), OUTPUT),
    "no space": (b"data:{}\n", OUTPUT),
    "no json": (b"data: hello\n", OUTPUT),
    "a word about errors": (b'data: {"choices":[{"delta":{"content":"error"}}]}\n', OUTPUT),
    "an error": (BUSY, ERROR),
    "an error after comments": (COMMENT + PING + BUSY, ERROR),
    "an error with a marker": (BUSY + DONE, ERROR),
    "a named error": (b"event: error\ndata: it died\n\n", ERROR),
    "a named error, carriage returns": (b"event: error\r\ndata: it died\r\n\r\n", ERROR),
    "an error without UTF-8": (b'data: {"error":{"message":"\xff"}}\n', ERROR),
    "a name without data does not stick": (b"event: error\n\ndata: {}\n", OUTPUT),
    "a failed response": (b'event: x\ndata: {"type":"response.failed"}\n', ERROR),
    "an error late": (chat_frames("m", usage=False)[0] + BUSY, OUTPUT),
}


def fed(opening: StreamGate | BodyGate, data: bytes, sizes: list[int]) -> GateState:
    """Feed `data` in pieces until decided, as the relay does."""
    state, at = UNDECIDED, 0
    for size in [*sizes, len(data)]:
        piece = data[at : at + size]
        if not piece or state is not UNDECIDED:
            break
        state = opening.feed(piece)
        at += size
    assert opening.held == data[: len(opening.held)]
    return state


@pytest.mark.parametrize("name", STREAMS)
def test_the_first_event_with_data_decides(name: str) -> None:
    data, expected = STREAMS[name]
    opening = StreamGate()

    assert fed(opening, data, []) is expected
    assert opening.held == data
    assert (opening.failure is not None) is (expected is ERROR)


def test_the_failure_is_the_servers_own() -> None:
    opening = StreamGate()
    opening.feed(COMMENT + BUSY)

    assert opening.failure is not None
    assert opening.failure.code is ErrorCode.BACKEND_OVERLOADED
    assert opening.failure.body == b'{"error":{"code":503,"message":"busy"}}'


CUTS = st.lists(st.integers(1, 200), max_size=60)


@given(st.sampled_from(sorted(STREAMS)), CUTS)
def test_any_cut_gives_the_same_decision_and_holds_what_came(name: str, sizes: list[int]) -> None:
    data, expected = STREAMS[name]
    opening = StreamGate()

    assert fed(opening, data, sizes) is expected
    if expected is UNDECIDED:
        assert opening.held == data
    else:
        # Decided with the piece that completes the first event, and not later.
        assert b"\n" in opening.held


@given(st.lists(st.sampled_from([COMMENT, PING, DONE, b"\r\n", b": x\r\n", b"\n"])), CUTS)
def test_what_carries_no_output_never_decides(pieces: list[bytes], sizes: list[int]) -> None:
    data = b"".join(pieces)
    opening = StreamGate()

    assert fed(opening, data, sizes) is UNDECIDED
    assert opening.held == data


@given(st.binary(max_size=2000), CUTS)
def test_garbage_gives_the_same_decision_however_it_is_cut(data: bytes, sizes: list[int]) -> None:
    assert fed(StreamGate(), data, sizes) is fed(StreamGate(), data, [])


@pytest.mark.parametrize("opening", [StreamGate(), BodyGate()])
def test_no_more_than_the_limit_is_held_back(opening: StreamGate | BodyGate) -> None:
    assert opening.feed(b"x" * OPENING_BYTES) is UNDECIDED
    assert opening.feed(b"x") is OUTPUT
    assert opening.failure is None


@pytest.mark.parametrize("data", [b"", b'{"error":"no"}', BUSY, b"{}"])
def test_an_answer_in_one_piece_is_judged_at_its_end(data: bytes) -> None:
    opening = BodyGate()

    assert fed(opening, data, [3]) is UNDECIDED
    assert opening.held == data
