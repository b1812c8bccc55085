from hypothesis import given
from hypothesis import strategies as st

from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.protocol.frames import Ack, AgentFrame, JobResult
from provider_agent.protocol.limits import KIB
from tests.kit.job_channels import data_of, open_started, result_of, take_all_frames

A, B, C = (bytes([number]) * 16 for number in (1, 2, 3))
WINDOW = 16 * KIB


ACTIONS = ["write", "send", "acknowledge", "end"]


@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 2), st.integers(1, 40_000))))
def test_bytes_arrive_complete_and_in_order_after_any_sequence_of_steps(
    steps: list[tuple[str, int, int]],
) -> None:
    outbox = Outbox(WINDOW)
    ids = [A, B, C]
    channels = [open_started(outbox, job_id) for job_id in ids]
    written = [b"", b"", b""]
    sent: list[AgentFrame] = []
    for action, index, size in steps:
        channel, source = channels[index]
        paused = source.calls[-1:] == ["pause"]
        if action == "write" and not paused and channel.stream.end is None:
            data = bytes([len(written[index]) % 251]) * size
            written[index] += data
            channel.send_chunk(data)
        elif action == "send":
            sent += outbox.next_batch()
        elif action == "acknowledge":
            outbox.acknowledge(Ack(ids[index], channel.stream.sent))
        elif action == "end":
            channel.finish(result_of(channel))
        assert channel.stream.sent - channel.stream.acked <= WINDOW
    for _ in range(100):
        sent += take_all_frames(outbox)
        for job_id, (channel, _) in zip(ids, channels, strict=True):
            outbox.acknowledge(Ack(job_id, channel.stream.sent))
    for index, job_id in enumerate(ids):
        assert data_of(sent, job_id) == written[index]
    assert sum(isinstance(one, JobResult) for one in sent) == sum(
        channel.stream.end is not None for channel, _ in channels
    )
