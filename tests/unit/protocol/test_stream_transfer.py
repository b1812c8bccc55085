"""What a stream sends again after a lost link. `tests/fuzz` tests both halves together."""

from hypothesis import given
from hypothesis import strategies as st

from provider_agent.protocol.frames import AgentFrame, Chunk, JobResult, JobStarted
from provider_agent.protocol.stream import SendStream

JOB_ID = b"\x0b" * 16
STARTED = JobStarted(JOB_ID, 200, "text/event-stream", "echo")


def make_result(total_bytes: int) -> JobResult:
    return JobResult(JOB_ID, total_bytes, 1, 1, 10, 5)


def drain(stream: SendStream, budget: int) -> list[AgentFrame]:
    frames: list[AgentFrame] = []
    while stream.ready:
        frames += stream.next_frames(budget)
    return frames


@given(
    st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=10),
    st.integers(1, 40),
    st.data(),
)
def test_rewinding_to_any_offset_sends_the_same_bytes_again(
    writes: list[bytes], budget: int, data: st.DataObject
) -> None:
    source = b"".join(writes)
    stream = SendStream(JOB_ID, len(source))
    stream.start(STARTED)
    for piece in writes:
        stream.write(piece)
    stream.finish(make_result(len(source)))
    drain(stream, budget)
    acked = data.draw(st.integers(0, len(source)))
    stream.acknowledge(acked, final=False)
    offset = data.draw(st.integers(acked, len(source)))

    stream.rewind(offset)

    repeated = drain(stream, budget)
    chunks = [frame for frame in repeated if isinstance(frame, Chunk)]
    assert b"".join(frame.data for frame in chunks) == source[offset:]
    assert [frame.offset for frame in chunks] == [
        offset + sum(len(earlier.data) for earlier in chunks[:index])
        for index in range(len(chunks))
    ]
    assert repeated[-1] == make_result(len(source))
