import tracemalloc

import pytest

from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import Chunk, JobError, JobResult, JobStarted
from provider_agent.protocol.stream import ReceiveStream, SendStream

JOB_ID = b"\x0b" * 16
STARTED = JobStarted(JOB_ID, 200, "text/event-stream", "echo")


def result(total_bytes: int) -> JobResult:
    return JobResult(JOB_ID, total_bytes, 1, 1, 10, 5)


def chunk(offset: int, data: bytes) -> Chunk:
    return Chunk(JOB_ID, offset, data)


def started_stream(window: int = 8) -> SendStream:
    stream = SendStream(JOB_ID, window)
    stream.start(STARTED)
    assert stream.next_frames() == [STARTED]
    return stream


# --- sending --------------------------------------------------------------------------------------


def test_frames_come_as_start_data_end() -> None:
    stream = SendStream(JOB_ID, 8)
    stream.start(STARTED)
    stream.write(b"abc")
    stream.finish(result(3))

    assert stream.next_frames() == [STARTED, chunk(0, b"abc"), result(3)]
    assert stream.next_frames() == []


def test_small_writes_share_a_chunk() -> None:
    stream = started_stream()
    stream.write(b"ab")
    stream.write(b"")
    stream.write(b"cd")

    assert stream.next_frames() == [chunk(0, b"abcd")]


def test_a_server_that_sends_byte_by_byte_costs_little_more_than_its_bytes() -> None:
    # Every byte was an object of its own while the link was down: fifty times the window.
    stream = started_stream(window=100_000)
    tracemalloc.start()
    try:
        for n in range(100_000):
            stream.write(bytes((n % 251,)))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 150_000
    (sent,) = stream.next_frames(budget=100_000)
    assert sent == chunk(0, bytes(n % 251 for n in range(100_000)))


def test_one_turn_takes_no_more_than_its_budget() -> None:
    stream = started_stream()
    stream.write(b"abcdef")

    assert stream.next_frames(budget=4) == [chunk(0, b"abcd")]
    assert stream.next_frames(budget=4) == [chunk(4, b"ef")]


def test_a_full_window_holds_data_and_end_back_until_acknowledged() -> None:
    stream = started_stream(window=4)
    stream.write(b"abcdef")
    stream.finish(result(6))
    assert stream.next_frames() == [chunk(0, b"abcd")]
    assert not stream.ready

    stream.acknowledge(1, final=False)

    assert stream.next_frames() == [chunk(4, b"e")]
    stream.acknowledge(5, final=False)
    assert stream.next_frames() == [chunk(5, b"f"), result(6)]


def test_the_source_pauses_at_the_window_and_goes_on_at_half_of_it() -> None:
    stream = started_stream(window=8)
    seen = []
    for byte in range(8):
        stream.write(bytes([byte]))
        seen.append(stream.full)
    stream.next_frames()
    for offset in (3, 4):
        stream.acknowledge(offset, final=False)
        seen.append(stream.below_low_water)

    assert seen == [False] * 7 + [True] + [False, True]


def test_only_the_first_end_counts() -> None:
    stream = started_stream()
    failed = JobError(JOB_ID, 0, "cancelled", "Cancelled.")
    stream.finish(failed)
    stream.finish(result(0))

    assert stream.next_frames() == [failed]


def test_what_comes_after_the_end_is_nothing() -> None:
    # A cancelled job's transport may still deliver its head or a last read.
    stream = SendStream(JOB_ID, 8)
    failed = JobError(JOB_ID, 0, "cancelled", "Cancelled.")
    stream.finish(failed)
    stream.start(STARTED)
    stream.write(b"late")

    assert stream.written == 0
    assert stream.next_frames() == [failed]
    assert not stream.ready


def test_a_job_may_fail_before_it_started() -> None:
    stream = SendStream(JOB_ID, 8)
    failed = JobError(JOB_ID, 0, "model_not_loaded", "No such model.")
    stream.finish(failed)

    assert stream.next_frames() == [failed]


def test_the_final_acknowledgement_ends_everything() -> None:
    stream = started_stream()
    stream.write(b"abc")
    stream.finish(result(3))
    stream.next_frames()

    stream.acknowledge(3, final=True)

    assert stream.done
    assert not stream.ready


def test_an_old_acknowledgement_says_nothing_new() -> None:
    stream = started_stream()
    stream.write(b"abcdef")
    stream.next_frames()
    stream.acknowledge(5, final=False)

    stream.acknowledge(2, final=False)

    assert stream.acked == 5


def test_bytes_never_sent_cannot_be_acknowledged() -> None:
    stream = started_stream(window=4)
    stream.write(b"abcdef")
    stream.next_frames()

    with pytest.raises(ProtocolViolation):
        stream.acknowledge(5, final=False)


@pytest.mark.parametrize("offset", [0, 2])
def test_a_final_acknowledgement_must_name_the_whole_length(offset: int) -> None:
    stream = started_stream()
    stream.write(b"abc")
    stream.finish(result(3))
    stream.next_frames()

    with pytest.raises(ProtocolViolation):
        stream.acknowledge(offset, final=True)


def test_a_final_acknowledgement_cannot_come_before_the_end() -> None:
    stream = started_stream()
    stream.write(b"abc")
    stream.next_frames()

    with pytest.raises(ProtocolViolation):
        stream.acknowledge(3, final=True)


# --- rewinding ------------------------------------------------------------------------------------


def test_rewinding_to_zero_sends_the_start_again() -> None:
    stream = started_stream()
    stream.write(b"abc")
    stream.finish(result(3))
    stream.next_frames()

    stream.rewind(0)

    assert stream.next_frames() == [STARTED, chunk(0, b"abc"), result(3)]


def test_rewinding_into_a_chunk_sends_its_rest() -> None:
    stream = started_stream()
    stream.write(b"abcdef")
    stream.next_frames()

    stream.rewind(4)

    assert stream.next_frames() == [chunk(4, b"ef")]


def test_rewinding_to_the_end_sends_the_end_again() -> None:
    stream = started_stream()
    stream.write(b"abc")
    stream.finish(result(3))
    stream.next_frames()

    stream.rewind(3)

    assert stream.next_frames() == [result(3)]


@pytest.mark.parametrize("offset", [1, 4])
def test_only_what_is_held_can_be_sent_again(offset: int) -> None:
    stream = started_stream()
    stream.write(b"abc")
    stream.next_frames()
    stream.acknowledge(2, final=False)

    with pytest.raises(ProtocolViolation):
        stream.rewind(offset)


# --- receiving ------------------------------------------------------------------------------------


def test_only_new_bytes_are_passed_on() -> None:
    stream = ReceiveStream(16)

    assert stream.receive(chunk(0, b"abc")) == b"abc"
    assert stream.receive(chunk(0, b"abc")) == b""
    assert stream.receive(chunk(1, b"bcde")) == b"de"
    assert stream.received == 5


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(chunk(4, b"x"), id="gap"),
        pytest.param(chunk(3, b""), id="no data"),
        pytest.param(chunk(3, bytes(14)), id="over the window"),
        pytest.param(chunk(2**53, b"x"), id="far gap"),
    ],
)
def test_an_impossible_chunk_is_a_violation(bad: Chunk) -> None:
    stream = ReceiveStream(16)
    stream.receive(chunk(0, b"abc"))

    with pytest.raises(ProtocolViolation):
        stream.receive(bad)


def test_a_window_exactly_full_is_allowed() -> None:
    assert len(ReceiveStream(16).receive(chunk(0, bytes(16)))) == 16


def test_a_quarter_of_the_window_is_worth_an_acknowledgement() -> None:
    stream = ReceiveStream(16)
    stream.receive(chunk(0, bytes(10)))

    assert stream.consume(3) is None
    assert stream.consume(1) == 4
    assert stream.consume(3) is None


@pytest.mark.parametrize("total", [2, 4])
def test_an_end_must_count_what_arrived(total: int) -> None:
    stream = ReceiveStream(16)
    stream.receive(chunk(0, b"abc"))

    with pytest.raises(ProtocolViolation):
        stream.check_end(result(total))
