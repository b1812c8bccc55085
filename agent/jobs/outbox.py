"""Everything that waits to be sent over the link: control frames, and one channel per job.

Control frames go first, then the jobs take turns. There are no timers: the frames that wait when
the writer is ready become one message, so an idle agent adds no delay and a busy one sends fewer,
larger messages. Memory is bounded: of control frames only the newest of each type is kept, and a
channel that holds a window of unacknowledged bytes pauses its source.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from provider_agent.agent.jobs.channel import JobChannel
from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    Capabilities,
    Chunk,
    Draining,
    Heartbeat,
    JobError,
    LiveJob,
)
from provider_agent.protocol.limits import (
    BATCH_BYTES,
    CHUNK_BYTES,
    MAX_LIVE_JOBS,
    MIB,
    WINDOW_BYTES,
)
from provider_agent.protocol.request import RequestBuffer
from provider_agent.protocol.send_stream import SendStream

FRAME_OVERHEAD_BYTES: Final = 64
"""The approximate size of a frame without its data: type, job id, offsets and short texts."""

MAX_OWN_WINDOW_BYTES: Final = 16 * MIB
"""The largest window that this agent accepts from a coordinator. It bounds the memory of stalled
jobs: 256 of them hold 4 GiB."""

ControlFrame = Capabilities | Heartbeat | Draining


class Outbox:
    """All frames that wait to be sent, and the responses that are not yet acknowledged.

    An outbox outlives its link: on the next link each channel continues from the offset that the
    coordinator names.

    Args:
        window_bytes: the window of each new channel, until `set_window` changes it.

    Attributes:
        on_ready: called when `has_frames` may have become true.
        lost_jobs: how many jobs were dropped before the coordinator had acknowledged their end.
    """

    def __init__(self, window_bytes: int = WINDOW_BYTES) -> None:
        self.on_ready: Callable[[], None] = _ignore
        self.lost_jobs = 0
        self._window = window_bytes
        self._control: dict[type[ControlFrame], ControlFrame] = {}
        self._channels: dict[bytes, JobChannel] = {}
        self._ready: deque[JobChannel] = deque()
        """The channels whose `is_queued` is set, in the order of their turns."""
        self._all_acknowledged = asyncio.Event()
        self._all_acknowledged.set()

    def __repr__(self) -> str:
        held = sum(
            channel.stream.written - channel.stream.acked for channel in self._channels.values()
        )
        return (
            f"<Outbox control={len(self._control)} channels={len(self._channels)} "
            f"ready={len(self._ready)} held_bytes={held} window={self._window}>"
        )

    def __contains__(self, job_id: bytes) -> bool:
        return job_id in self._channels

    def set_window(self, window_bytes: int) -> None:
        """Set the window of channels opened or resumed later, up to the agent's limit."""
        self._window = min(window_bytes, MAX_OWN_WINDOW_BYTES)

    @property
    def streams(self) -> list[SendStream]:
        """The streams of all jobs whose end is not acknowledged."""
        return [channel.stream for channel in self._channels.values()]

    @property
    def has_frames(self) -> bool:
        """Whether `next_batch` may have frames."""
        return bool(self._control or self._ready)

    def put(self, frame: ControlFrame) -> None:
        """Queue a control frame before all others; it replaces an unsent one of its type."""
        self._control[type(frame)] = frame
        self.on_ready()

    def open(self, job_id: bytes, request_bytes: int = 0, *, hashed: bool = False) -> JobChannel:
        """Open the channel of a new job; it is kept until the job's end is acknowledged.

        Args:
            job_id: the job.
            request_bytes: the size of the job's request body.
            hashed: whether the stream hashes the response, for a receipt.

        Raises:
            ProtocolViolation: the coordinator sent more jobs than an agent must keep.
        """
        if len(self._channels) >= MAX_LIVE_JOBS:
            raise ProtocolViolation("more jobs than an agent must keep; acknowledge ends first")
        channel = self._channels[job_id] = JobChannel(
            SendStream(job_id, self._window, hashed=hashed),
            self.mark_ready,
            RequestBuffer(request_bytes),
        )
        self._all_acknowledged.clear()
        return channel

    def mark_ready(self, channel: JobChannel) -> None:
        """Note that a channel may have frames to send."""
        # A job that is being stopped may still write to a forgotten channel.
        if not channel.is_queued and channel.stream.job_id in self._channels:
            channel.is_queued = True
            self._ready.append(channel)
            if len(self._ready) == 1:
                self.on_ready()

    def acknowledge(self, ack: Ack) -> None:
        """Release acknowledged bytes, and the channel of an acknowledged end; ignore unknown jobs.

        Raises:
            ProtocolViolation: the acknowledged bytes or end have not been sent.
        """
        channel = self._channels.get(ack.job_id)
        if channel is None:
            return
        channel.stream.acknowledge(ack.offset, final=ack.final)
        channel.resume_if_half_free()
        if channel.stream.done:
            self.forget([ack.job_id])
        else:
            self.mark_ready(channel)

    def next_batch(self, limit_bytes: int = BATCH_BYTES) -> list[AgentFrame]:
        """Remove and return the frames of the next message; empty if there is nothing to send.

        There may be nothing although `on_ready` was called: a window is full, or a job was stopped.
        The overhead of a frame and the body of an error can make the message exceed `limit_bytes`.
        """
        if self._control:
            control: list[AgentFrame] = list(self._control.values())
            self._control.clear()
            return control
        frames: list[AgentFrame] = []
        size = 0
        ready = self._ready
        while ready and size < limit_bytes:
            channel = ready.popleft()
            channel.is_queued = False
            stream = channel.stream
            budget = min(CHUNK_BYTES, limit_bytes - size)
            chunk = stream.next_chunk(budget)
            if chunk is not None:
                frames.append(chunk)
                size += len(chunk.data) + FRAME_OVERHEAD_BYTES
                continue
            for frame in stream.next_frames(budget):
                frames.append(frame)
                size += _size(frame)
            if stream.ready:
                channel.is_queued = True
                ready.append(channel)
        return frames

    async def wait_until_acknowledged(self) -> None:
        """Return when every job has ended and its end is acknowledged."""
        while self._channels:  # a job may have arrived before this task runs again
            await self._all_acknowledged.wait()

    def live_jobs(self) -> list[LiveJob]:
        """Return the jobs that can continue on the next link, with their offsets.

        The offsets stay valid until the next `Welcome`: without a link no channel sends anything.
        """
        return [channel.live_job() for channel in self._channels.values()]

    def resume(self, offsets: Mapping[bytes, int]) -> list[bytes]:
        """Continue channels on a new link, each from its offset; forget all others.

        Args:
            offsets: the next byte to send, by job id; unknown jobs are ignored.

        Returns:
            The ids of the forgotten jobs.

        Raises:
            ProtocolViolation: an offset is outside the range that `live_jobs` reported.
        """
        for job_id, offset in offsets.items():
            channel = self._channels.get(job_id)
            if channel is not None:
                channel.stream.window = self._window
                channel.stream.rewind(offset)
                channel.resume_if_half_free()
                self.mark_ready(channel)
        orphans = [job_id for job_id in self._channels if job_id not in offsets]
        self.abandon(orphans)
        return orphans

    def drop_control(self) -> None:
        """Discard unsent control frames of an ended link; the next link sends new ones."""
        self._control.clear()

    def channel(self, job_id: bytes) -> JobChannel:
        """Return the channel of a job whose end is not acknowledged."""
        return self._channels[job_id]

    def abandon(self, job_ids: Collection[bytes]) -> None:
        """Drop jobs whose end will not be acknowledged, and count them as lost."""
        self.lost_jobs += len(job_ids)
        self.forget(job_ids)

    def forget(self, job_ids: Iterable[bytes]) -> None:
        """Drop channels and the bytes that they hold; later writes to them are never sent."""
        for job_id in job_ids:
            channel = self._channels.pop(job_id, None)
            if channel is not None and channel.is_queued:
                self._ready.remove(channel)
                channel.is_queued = False
        if not self._channels:
            self._all_acknowledged.set()


def _ignore() -> None:
    """Stand in for `on_ready` while there is no link."""


def _size(frame: AgentFrame) -> int:
    if isinstance(frame, Chunk):
        return len(frame.data) + FRAME_OVERHEAD_BYTES
    if isinstance(frame, JobError):
        return len(frame.body) + len(frame.message) + FRAME_OVERHEAD_BYTES
    return FRAME_OVERHEAD_BYTES
