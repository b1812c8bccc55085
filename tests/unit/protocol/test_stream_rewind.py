"""`SendStream.rewind` after a lost link. `tests/fuzz` tests it together with `ReceiveStream`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import (
    AgentFrame,
    Chunk,
    JobError,
    JobResult,
    JobStarted,
    Usage,
)
from provider_agent.protocol.send_stream import SendStream

JOB_ID = b"\x0b" * 16
STARTED = JobStarted(JOB_ID, 200, "text/event-stream", "echo")


def make_result(total_bytes: int) -> JobResult:
    return JobResult(JOB_ID, total_bytes, Usage(1, 1), "b", 10, 5)


def send_all(stream: SendStream, budget: int) -> list[AgentFrame]:
    frames: list[AgentFrame] = []
    while stream.ready:
        frames += stream.next_frames(budget)
    return frames


@given(
    st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=10),
    st.integers(1, 40),
    st.data(),
)
def test_rewinding_to_an_unacknowledged_offset_resends_the_same_bytes(
    writes: list[bytes], budget: int, data: st.DataObject
) -> None:
    source = b"".join(writes)
    stream = SendStream(JOB_ID, len(source))
    stream.start(STARTED)
    for piece in writes:
        stream.write(piece)
    stream.finish(make_result(len(source)))
    send_all(stream, budget)
    acked = data.draw(st.integers(0, len(source)))
    stream.acknowledge(acked, final=False)
    offset = data.draw(st.integers(acked, len(source)))

    stream.rewind(offset)

    repeated = send_all(stream, budget)
    chunks = [frame for frame in repeated if isinstance(frame, Chunk)]
    assert b"".join(frame.data for frame in chunks) == source[offset:]
    assert [frame.offset for frame in chunks] == [
        offset + sum(len(earlier.data) for earlier in chunks[:index])
        for index in range(len(chunks))
    ]
    assert repeated[-1] == make_result(len(source))


def make_ended_stream() -> SendStream:
    """A stream of three bytes and its end, sent on an earlier link."""
    stream = SendStream(JOB_ID, 16)
    stream.start(STARTED)
    stream.write(b"abc")
    stream.finish(make_result(3))
    send_all(stream, 16)
    return stream


@pytest.mark.parametrize("offset", [0, 2, 3])
def test_a_final_acknowledgement_is_valid_after_the_end_was_sent_on_any_link(offset: int) -> None:
    # In an earlier version, a final `Ack` in the same message as `Welcome` was a violation, so that
    # every reconnection failed.
    stream = make_ended_stream()
    stream.rewind(offset)

    stream.acknowledge(3, final=True)

    assert stream.done
    assert not stream.ready


def test_an_acknowledgement_of_bytes_sent_on_an_earlier_link_skips_them() -> None:
    stream = make_ended_stream()
    stream.rewind(0)

    stream.acknowledge(2, final=False)

    assert [f.data for f in send_all(stream, 16) if isinstance(f, Chunk)] == [b"c"]
    assert (stream.acked, stream.sent) == (2, 3)


def test_after_dropped_bytes_only_the_new_end_can_be_acknowledged() -> None:
    stream = make_ended_stream()
    stream.rewind(1)
    stream.drop_unsent()
    stream.finish(JobError(JOB_ID, stream.written, "slow_consumer", ""))

    with pytest.raises(ProtocolViolation):
        stream.acknowledge(3, final=True)
    assert send_all(stream, 16) == [JobError(JOB_ID, 1, "slow_consumer", "")]
    stream.acknowledge(1, final=True)
    assert stream.done


def test_dropped_bytes_of_an_earlier_link_can_still_be_acknowledged() -> None:
    # In an earlier version, this acknowledgement closed the link of all jobs with 1002.
    stream = make_ended_stream()
    stream.rewind(1)
    stream.drop_unsent()
    stream.finish(JobError(JOB_ID, stream.written, "slow_consumer", ""))

    stream.acknowledge(3, final=False)

    assert stream.acked == 1
    assert send_all(stream, 16) == [JobError(JOB_ID, 1, "slow_consumer", "")]
    stream.acknowledge(1, final=True)
    assert stream.done
