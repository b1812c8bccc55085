"""`SendStream.rewind` after a lost link. `tests/fuzz` tests it together with `ReceiveStream`."""

from hypothesis import given
from hypothesis import strategies as st

from provider_agent.protocol.frames import AgentFrame, Chunk, JobResult, JobStarted, Usage
from provider_agent.protocol.stream import SendStream

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
