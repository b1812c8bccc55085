import tracemalloc

import pytest

from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import Chunk, JobError, JobResult, JobStarted, Usage
from provider_agent.protocol.receive_stream import ReceiveStream
from provider_agent.protocol.send_stream import SendStream

JOB_ID = b"\x0b" * 16
STARTED = JobStarted(JOB_ID, 200, "text/event-stream", "echo")


def make_result(total_bytes: int) -> JobResult:
    return JobResult(JOB_ID, total_bytes, Usage(1, 1), "b", 10, 5)


def make_chunk(offset: int, data: bytes) -> Chunk:
    return Chunk(JOB_ID, offset, data)


def make_started_stream(window: int = 8) -> SendStream:
    stream = SendStream(JOB_ID, window)
    stream.start(STARTED)
    assert stream.next_frames() == [STARTED]
    return stream


# --- sending --------------------------------------------------------------------------------------


def test_frames_are_sent_as_start_data_end() -> None:
    stream = SendStream(JOB_ID, 8)
    stream.start(STARTED)
    stream.write(b"abc")
    stream.finish(make_result(3))

    assert stream.next_frames() == [STARTED, make_chunk(0, b"abc"), make_result(3)]
    assert stream.next_frames() == []


def test_small_writes_share_a_chunk() -> None:
    stream = make_started_stream()
    stream.write(b"ab")
    stream.write(b"")
    stream.write(b"cd")

    assert stream.next_frames() == [make_chunk(0, b"abcd")]


def test_single_byte_writes_are_merged_in_memory() -> None:
    # In an earlier version, each byte that was written while the link was down became an object of
    # its own, which took fifty times the memory of the window.
    stream = make_started_stream(window=100_000)
    tracemalloc.start()
    try:
        for n in range(100_000):
            stream.write(bytes((n % 251,)))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 150_000
    (sent,) = stream.next_frames(budget=100_000)
    assert sent == make_chunk(0, bytes(n % 251 for n in range(100_000)))


def test_small_chunks_are_merged_in_memory_after_they_were_sent() -> None:
    stream = make_started_stream(window=100_000)
    tracemalloc.start()
    try:
        for _ in range(2000):
            stream.write(b"x" * 50)
            stream.next_frames()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 120_000


def test_next_frames_respects_the_budget() -> None:
    stream = make_started_stream()
    stream.write(b"abcdef")

    assert stream.next_frames(budget=4) == [make_chunk(0, b"abcd")]
    assert stream.next_frames(budget=4) == [make_chunk(4, b"ef")]


def test_a_full_window_delays_data_and_end_until_an_ack() -> None:
    stream = make_started_stream(window=4)
    stream.write(b"abcdef")
    stream.finish(make_result(6))
    assert stream.next_frames() == [make_chunk(0, b"abcd")]
    assert not stream.ready

    stream.acknowledge(1, final=False)

    assert stream.next_frames() == [make_chunk(4, b"e")]
    stream.acknowledge(5, final=False)
    assert stream.next_frames() == [make_chunk(5, b"f"), make_result(6)]


def test_the_source_pauses_at_a_full_window_and_continues_at_half() -> None:
    stream = make_started_stream(window=8)
    seen = []
    for byte in range(8):
        stream.write(bytes([byte]))
        seen.append(stream.full)
    stream.next_frames()
    for offset in (3, 4):
        stream.acknowledge(offset, final=False)
        seen.append(stream.below_low_water)

    assert seen == [False] * 7 + [True] + [False, True]


def test_a_second_end_is_ignored() -> None:
    stream = make_started_stream()
    failed = JobError(JOB_ID, 0, "cancelled", "Cancelled.")
    stream.finish(failed)
    stream.finish(make_result(0))

    assert stream.next_frames() == [failed]


def test_start_and_data_after_the_end_are_ignored() -> None:
    # The transport of a cancelled job may still deliver response headers or a last read.
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


def test_a_final_ack_completes_the_stream() -> None:
    stream = make_started_stream()
    stream.write(b"abc")
    stream.finish(make_result(3))
    stream.next_frames()

    stream.acknowledge(3, final=True)

    assert stream.done
    assert not stream.ready


def test_an_ack_below_an_earlier_one_has_no_effect() -> None:
    stream = make_started_stream()
    stream.write(b"abcdef")
    stream.next_frames()
    stream.acknowledge(5, final=False)

    stream.acknowledge(2, final=False)

    assert stream.acked == 5


def test_an_ack_beyond_the_sent_bytes_is_a_violation() -> None:
    stream = make_started_stream(window=4)
    stream.write(b"abcdef")
    stream.next_frames()

    with pytest.raises(ProtocolViolation):
        stream.acknowledge(5, final=False)


@pytest.mark.parametrize("offset", [0, 2])
def test_a_final_ack_below_the_total_is_a_violation(offset: int) -> None:
    stream = make_started_stream()
    stream.write(b"abc")
    stream.finish(make_result(3))
    stream.next_frames()

    with pytest.raises(ProtocolViolation, match="another offset than total_bytes"):
        stream.acknowledge(offset, final=True)


def test_a_final_ack_before_the_end_is_a_violation() -> None:
    stream = make_started_stream()
    stream.write(b"abc")
    stream.next_frames()

    with pytest.raises(ProtocolViolation, match="before the end was sent"):
        stream.acknowledge(3, final=True)


# --- rewinding ------------------------------------------------------------------------------------


def test_rewinding_to_zero_sends_the_start_again() -> None:
    stream = make_started_stream()
    stream.write(b"abc")
    stream.finish(make_result(3))
    stream.next_frames()

    stream.rewind(0)

    assert stream.next_frames() == [STARTED, make_chunk(0, b"abc"), make_result(3)]


def test_rewinding_into_a_chunk_sends_its_remainder() -> None:
    stream = make_started_stream()
    stream.write(b"abcdef")
    stream.next_frames()

    stream.rewind(4)

    assert stream.next_frames() == [make_chunk(4, b"ef")]


def test_rewinding_to_the_end_sends_the_end_again() -> None:
    stream = make_started_stream()
    stream.write(b"abc")
    stream.finish(make_result(3))
    stream.next_frames()

    stream.rewind(3)

    assert stream.next_frames() == [make_result(3)]


@pytest.mark.parametrize("offset", [1, 4])
def test_rewinding_to_bytes_not_held_is_a_violation(offset: int) -> None:
    stream = make_started_stream()
    stream.write(b"abc")
    stream.next_frames()
    stream.acknowledge(2, final=False)

    with pytest.raises(ProtocolViolation):
        stream.rewind(offset)


# --- receiving ------------------------------------------------------------------------------------


def test_receive_returns_only_new_bytes() -> None:
    stream = ReceiveStream(16)

    assert stream.receive(make_chunk(0, b"abc")) == b"abc"
    assert stream.receive(make_chunk(0, b"abc")) == b""
    assert stream.receive(make_chunk(1, b"bcde")) == b"de"
    assert stream.received == 5


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(make_chunk(4, b"x"), id="gap"),
        pytest.param(make_chunk(3, b""), id="no data"),
        pytest.param(make_chunk(3, bytes(14)), id="over the window"),
        pytest.param(make_chunk(2**53 - 1, b"x"), id="far gap"),
    ],
)
def test_an_invalid_chunk_is_a_violation(bad: Chunk) -> None:
    stream = ReceiveStream(16)
    stream.receive(make_chunk(0, b"abc"))

    with pytest.raises(ProtocolViolation):
        stream.receive(bad)


def test_a_chunk_may_fill_the_window_exactly() -> None:
    assert len(ReceiveStream(16).receive(make_chunk(0, bytes(16)))) == 16


def test_an_ack_is_due_per_quarter_of_the_window() -> None:
    stream = ReceiveStream(16)
    stream.receive(make_chunk(0, bytes(10)))

    assert stream.consume(3) is None
    assert stream.consume(1) == 4
    assert stream.consume(3) is None


@pytest.mark.parametrize("total", [2, 4])
def test_an_end_with_a_wrong_total_is_a_violation(total: int) -> None:
    stream = ReceiveStream(16)
    stream.receive(make_chunk(0, b"abc"))

    with pytest.raises(ProtocolViolation):
        stream.check_end(make_result(total))
