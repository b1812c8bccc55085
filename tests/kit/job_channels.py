"""Helpers that open the job channels of an outbox and read what the channels send."""

from provider_agent.agent.jobs.channel import JobChannel
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.protocol.frames import AgentFrame, Chunk, JobResult, Usage


class RecordingSource:
    """A `FlowControl` that records its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")


def open_started(outbox: Outbox, job_id: bytes) -> tuple[JobChannel, RecordingSource]:
    """Open a channel and start its response; return the channel and the response's source."""
    channel, source = outbox.open(job_id), RecordingSource()
    channel.assign("backend")
    channel.started(200, "text/plain", source, {})
    return channel, source


def result_of(channel: JobChannel) -> JobResult:
    return JobResult(channel.stream.job_id, channel.stream.written, Usage(None, None), "b", 1, 1)


def take_all_frames(outbox: Outbox) -> list[AgentFrame]:
    """Return all frames that can be sent now."""
    frames: list[AgentFrame] = []
    while batch := outbox.next_batch():
        frames += batch
    return frames


def data_of(frames: list[AgentFrame], job_id: bytes) -> bytes:
    chunks = [one for one in frames if isinstance(one, Chunk) and one.job_id == job_id]
    return b"".join(one.data for one in chunks)
