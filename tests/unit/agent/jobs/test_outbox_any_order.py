from hypothesis import given
from hypothesis import strategies as st

from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.protocol.frames import Ack, AgentFrame, JobResult
from provider_agent.protocol.limits import KIB
from tests.kit.job_channels import data_of, open_started, result_of, take_all_frames

A, B, C = (bytes([number]) * 16 for number in (1, 2, 3))
WINDOW = 16 * KIB


@given(st.lists(st.tuples(st.sampled_from("wsae"), st.integers(0, 2), st.integers(1, 40_000))))
def test_bytes_arrive_complete_and_in_order_after_any_sequence_of_steps(
    steps: list[tuple[str, int, int]],
) -> None:
    outbox = Outbox(WINDOW)
    ids = [A, B, C]
    channels = [open_started(outbox, job_id) for job_id in ids]
    written = [b"", b"", b""]
    sent: list[AgentFrame] = []
    for action, which, size in steps:
        channel, source = channels[which]
        paused = source.calls[-1:] == ["pause"]
        if action == "w" and not paused and channel.stream.end is None:
            data = bytes([len(written[which]) % 251]) * size
            written[which] += data
            channel.send_chunk(data)
        elif action == "s":
            sent += outbox.next_batch()
        elif action == "a":
            outbox.acknowledge(Ack(ids[which], channel.stream.sent))
        elif action == "e":
            channel.finish(result_of(channel))
        assert channel.stream.sent - channel.stream.acked <= WINDOW
    for _ in range(100):
        sent += take_all_frames(outbox)
        for job_id, (channel, _) in zip(ids, channels, strict=True):
            outbox.acknowledge(Ack(job_id, channel.stream.sent))
    for which, job_id in enumerate(ids):
        assert data_of(sent, job_id) == written[which]
    assert sum(isinstance(one, JobResult) for one in sent) == sum(
        channel.stream.end is not None for channel, _ in channels
    )
