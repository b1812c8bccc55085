"""Streams that continue a response whose first bytes another process sent or received."""

import pytest

from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import Ack, Chunk, JobResult, JobStarted, Usage
from provider_agent.protocol.limits import MIN_WINDOW_BYTES
from provider_agent.protocol.receive_stream import ReceiveStream
from provider_agent.protocol.send_stream import SendStream
from tests.unit.protocol.protocols import JOB_ID, STARTED, make_coordinator_with_job


def continued(*, window: int = 10) -> SendStream:
    """A stream that continues at 6; the bytes from 4 on are not acknowledged."""
    stream = SendStream(JOB_ID, window)
    stream.continue_from(acked=4, sent=6)
    return stream


def sent_bytes(stream: SendStream) -> dict[int, bytes]:
    frames = stream.next_frames()
    return {frame.offset: frame.data for frame in frames if isinstance(frame, Chunk)}


def test_new_bytes_follow_those_of_the_other_process_without_a_start() -> None:
    stream = continued()
    stream.write(b"gh")
    assert stream.next_frames() == [Chunk(JOB_ID, 6, b"gh")]


def test_response_without_bytes_starts_again() -> None:
    stream = SendStream(JOB_ID, 10)
    stream.continue_from(acked=0, sent=0)
    stream.start(STARTED)
    assert stream.next_frames() == [STARTED]


def test_window_counts_the_bytes_of_the_other_process() -> None:
    stream = continued(window=3)
    stream.write(b"ghi")
    assert sent_bytes(stream) == {6: b"g"}
    stream.acknowledge(5, final=False)
    assert sent_bytes(stream) == {7: b"h"}


@pytest.mark.parametrize("acked", [0, 4, 5, 6, 7, 8])
def test_bytes_that_are_held_can_be_sent_again_after_any_acknowledgement(acked: int) -> None:
    stream = continued()
    stream.write(b"gh")
    stream.next_frames()
    stream.acknowledge(acked, final=False)
    assert stream.first_held == max(acked, 6)
    stream.rewind(stream.first_held)
    assert b"".join(sent_bytes(stream).values()) == b"gh"[stream.first_held - 6 :]


@pytest.mark.parametrize("offset", [0, 4, 5, 9])
def test_rewind_to_bytes_that_are_not_held_is_a_violation(offset: int) -> None:
    stream = continued()
    stream.write(b"gh")
    stream.next_frames()
    with pytest.raises(ProtocolViolation):
        stream.rewind(offset)


def test_acknowledgement_of_bytes_that_were_never_sent_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation):
        continued().acknowledge(7, final=False)


def test_end_is_acknowledged_at_the_offset_of_the_whole_response() -> None:
    stream = continued()
    end = JobResult(JOB_ID, 6, Usage(1, 1), "b", 1, 1)
    stream.finish(end)
    with pytest.raises(ProtocolViolation):
        stream.acknowledge(6, final=True)  # the end was not sent
    assert stream.next_frames() == [end]
    stream.acknowledge(6, final=True)
    assert stream.done


def test_receiver_continues_within_its_window() -> None:
    stream = ReceiveStream(10)
    stream.continue_from(consumed=4, received=6)
    assert stream.resume(10) == 4
    assert stream.started
    assert stream.receive(Chunk(JOB_ID, 4, b"efgh")) == b"gh"
    with pytest.raises(ProtocolViolation):
        stream.receive(Chunk(JOB_ID, 8, bytes(7)))
    assert stream.consume(4) == 8


def test_receiver_of_no_bytes_expects_the_start_again() -> None:
    stream = ReceiveStream(10)
    stream.continue_from(consumed=0, received=0)
    assert not stream.started


END = JobResult(JOB_ID, 3, Usage(1, 2), "b", 10, 5)


def test_held_end_is_acknowledged_once_and_returned_each_time() -> None:
    protocol = make_coordinator_with_job()
    protocol.streams[JOB_ID].holds_end = True
    for frame in (STARTED, Chunk(JOB_ID, 0, b"abc"), END, END):
        assert protocol.receive(frame) is frame
    assert protocol.to_send == []
    for _ in range(2):
        protocol.acknowledge_end(JOB_ID)
    assert protocol.to_send == [Ack(JOB_ID, 3, final=True)]
    assert (protocol.streams, protocol.ended) == ({}, {JOB_ID: 3})


def test_end_with_another_total_than_the_held_one_is_a_violation() -> None:
    protocol = make_coordinator_with_job()
    protocol.streams[JOB_ID].holds_end = True
    for frame in (STARTED, Chunk(JOB_ID, 0, b"abc"), END):
        protocol.receive(frame)
    with pytest.raises(ProtocolViolation):
        protocol.receive(JobResult(JOB_ID, 2, Usage(1, 2), "b", 10, 5))
    with pytest.raises(ProtocolViolation):
        protocol.receive(JobStarted(JOB_ID, 200, "", ""))
    assert len(protocol.streams) == 1
    assert protocol.streams[JOB_ID].window == MIN_WINDOW_BYTES
