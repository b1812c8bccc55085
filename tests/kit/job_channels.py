"""Lanes of an outbox, as a job's adapter and the coordinator's acknowledgements use them."""

from provider_agent.agent.jobs.channel import JobChannel
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.protocol.frames import AgentFrame, Chunk, JobResult


class Source:
    """A `FlowControl` that remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")


def begin(outbox: Outbox, job_id: bytes) -> tuple[JobChannel, Source]:
    channel, source = outbox.open(job_id), Source()
    channel.assign("backend")
    channel.started(200, "text/plain", source)
    return channel, source


def result(channel: JobChannel) -> JobResult:
    return JobResult(channel.stream.job_id, channel.stream.written, None, None, 1, 1)


def drained(outbox: Outbox) -> list[AgentFrame]:
    """Everything there is to send now."""
    frames: list[AgentFrame] = []
    while batch := outbox.next_batch():
        frames += batch
    return frames


def data_of(frames: list[AgentFrame], job_id: bytes) -> bytes:
    chunks = [one for one in frames if isinstance(one, Chunk) and one.job_id == job_id]
    return b"".join(one.data for one in chunks)
