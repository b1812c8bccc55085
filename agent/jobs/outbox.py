"""Everything on its way to the coordinator: a control channel, and one channel per job.

Control frames go first, then the jobs take turns. No timers: what is there when the writer is ready
goes out as one message, so an idle agent adds no delay and a busy one sends fewer, larger messages.
Nothing here grows without bound: the control channel keeps only the newest frame of each type, and
a channel that holds a window's worth of unacknowledged bytes pauses its source.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Final

from provider_agent.adapters.base import FlowControl
from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    Capabilities,
    Chunk,
    Draining,
    Heartbeat,
    JobEnd,
    JobError,
    JobStarted,
    LiveJob,
)
from provider_agent.protocol.limits import (
    BATCH_BYTES,
    CHUNK_BYTES,
    MAX_LIVE_JOBS,
    MAX_NAME_CHARS,
    MIB,
    WINDOW_BYTES,
)
from provider_agent.protocol.stream import SendStream

FRAME_OVERHEAD_BYTES: Final = 64
"""What a frame counts beside its data: its type, job id, offsets and texts, roundly."""

MAX_OWN_WINDOW_BYTES: Final = 16 * MIB
"""What this agent holds per job at most, whatever window a coordinator grants: 256 jobs with
stopped consumers then cost 4 GiB, and no coordinator can ask for more."""

ControlFrame = Capabilities | Heartbeat | Draining


class JobChannel:
    """One job's way out; the `JobSink` that adapters write into."""

    __slots__ = ("_backend_id", "_outbox", "_paused", "_source", "stream")

    def __init__(self, stream: SendStream, outbox: "Outbox") -> None:
        self.stream = stream
        self._outbox = outbox
        self._backend_id = ""
        self._source: FlowControl | None = None
        self._paused = False

    def __repr__(self) -> str:
        return f"<JobChannel {self.stream!r} backend={self._backend_id!r} paused={self._paused}>"

    def assign(self, backend_id: str) -> None:
        """Which backend is about to write into this channel."""
        self._backend_id = backend_id[:MAX_NAME_CHARS]

    def started(self, status: int, content_type: str, source: FlowControl) -> None:
        """The response has begun; see `JobSink.started`.

        Raises:
            ValueError: no frame can carry this status. Sent, it would end the link for every job.
        """
        if not 100 <= status <= 599:
            raise ValueError("a status that is none of HTTP's")
        self._source = source
        content_type = content_type[:MAX_NAME_CHARS]
        self.stream.start(JobStarted(self.stream.job_id, status, content_type, self._backend_id))
        self._outbox.mark_ready(self)

    def send_chunk(self, data: bytes) -> None:
        """The next bytes; see `JobSink.send_chunk`.

        Raises:
            RuntimeError: the adapter has not said that the response began.
        """
        stream = self.stream
        if stream.started is None and stream.end is None:
            raise RuntimeError("bytes before the response began")
        stream.write(data)
        self._outbox.mark_ready(self)
        if stream.full and not self._paused and self._source is not None:
            self._paused = True
            self._source.pause_reading()

    def finish(self, end: JobEnd) -> None:
        """The job's one end."""
        self.stream.finish(end)
        self._source = None
        self._outbox.mark_ready(self)

    def acknowledged(self) -> None:
        """Some bytes are safe: let the source go on when half the window is free."""
        if self._paused and self.stream.below_low_water:
            self._paused = False
            if self._source is not None:
                self._source.resume_reading()


class Outbox:
    """See the module's text.

    Outlives the connection it is written to: on the next one its channels go on from where the
    coordinator stands.
    """

    def __init__(self, window_bytes: int = WINDOW_BYTES) -> None:
        self._window = window_bytes
        self._control: dict[type[ControlFrame], ControlFrame] = {}
        self._channels: dict[bytes, JobChannel] = {}
        self._ready: OrderedDict[bytes, JobChannel] = OrderedDict()
        self._something = asyncio.Event()
        self._no_lanes = asyncio.Event()
        self._no_lanes.set()

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
        """The coordinator's window, for channels opened from now on; less, when it is excessive."""
        self._window = min(window_bytes, MAX_OWN_WINDOW_BYTES)

    @property
    def streams(self) -> list[SendStream]:
        """Every job's stream whose end is not acknowledged."""
        return [channel.stream for channel in self._channels.values()]

    def put(self, frame: ControlFrame) -> None:
        """Send a control frame next; it replaces an unsent one of its type."""
        self._control[type(frame)] = frame
        self._something.set()

    def open(self, job_id: bytes) -> JobChannel:
        """A channel for a new job, which it keeps until its end is acknowledged.

        Raises:
            ProtocolViolation: the coordinator has given more jobs than an agent has to hold.
        """
        if len(self._channels) >= MAX_LIVE_JOBS:
            raise ProtocolViolation("more jobs than an agent holds; their ends are unacknowledged")
        channel = self._channels[job_id] = JobChannel(SendStream(job_id, self._window), self)
        self._no_lanes.clear()
        return channel

    def mark_ready(self, channel: JobChannel) -> None:
        """This channel may have something to send. Cheap: called for every read of every job."""
        job_id = channel.stream.job_id
        # A job that outlives its session for a moment may still write into a forgotten channel.
        if job_id not in self._ready and channel.stream.ready and job_id in self._channels:
            self._ready[job_id] = channel
            self._something.set()

    def acknowledge(self, ack: Ack) -> None:
        """The coordinator has some bytes, or the end, of a job; an unknown job is ignored.

        Raises:
            ProtocolViolation: it acknowledges what was never sent.
        """
        channel = self._channels.get(ack.job_id)
        if channel is None:
            return
        channel.stream.acknowledge(ack.offset, final=ack.final)
        channel.acknowledged()
        if channel.stream.done:
            self.forget([ack.job_id])
        else:
            self.mark_ready(channel)

    def next_batch(self, limit_bytes: int = BATCH_BYTES) -> list[AgentFrame]:
        """The frames of the next message, full at about so many bytes; empty: nothing to send."""
        if self._control:
            control: list[AgentFrame] = list(self._control.values())
            self._control.clear()
            return control
        frames: list[AgentFrame] = []
        size = 0
        while self._ready and size < limit_bytes:
            job_id, channel = self._ready.popitem(last=False)
            turn = channel.stream.next_frames(min(CHUNK_BYTES, limit_bytes - size))
            frames += turn
            size += sum(map(_size, turn))
            if channel.stream.ready:
                self._ready[job_id] = channel
        return frames

    async def wait(self) -> None:
        """Return when `next_batch` has something. Cancelling it loses nothing."""
        while not self._control and not self._ready:
            self._something.clear()
            await self._something.wait()

    async def wait_until_acknowledged(self) -> None:
        """Return when every job has ended and its end is acknowledged."""
        await self._no_lanes.wait()

    def live_jobs(self) -> list[LiveJob]:
        """What can go on, on the next connection.

        It stays true until that one is welcomed: without a connection no channel sends anything.
        """
        return [channel.stream.live_job() for channel in self._channels.values()]

    def resume(self, offsets: Mapping[bytes, int]) -> list[bytes]:
        """Continue channels on a new connection, each from its offset; forget all others.

        Args:
            offsets: by job id; jobs that were not offered are ignored.

        Returns:
            The jobs that are forgotten.

        Raises:
            ProtocolViolation: an offset is not one that was offered.
        """
        for job_id, offset in offsets.items():
            channel = self._channels.get(job_id)
            if channel is not None:
                channel.stream.window = self._window
                channel.stream.rewind(offset)
                channel.acknowledged()
                self.mark_ready(channel)
        orphans = [job_id for job_id in self._channels if job_id not in offsets]
        self.forget(orphans)
        return orphans

    def drop_control(self) -> None:
        """Forget the control frames that wait: they were for a connection that is over."""
        self._control.clear()

    def finish(self, end: JobEnd) -> None:
        """A job's one end, for whoever has only its id; an unknown job is ignored."""
        channel = self._channels.get(end.job_id)
        if channel is not None:
            channel.finish(end)

    def forget(self, job_ids: Iterable[bytes]) -> None:
        """Drop channels with all they hold. Whoever still writes into one writes into nothing."""
        for job_id in job_ids:
            del self._channels[job_id]
            self._ready.pop(job_id, None)
        if not self._channels:
            self._no_lanes.set()


def _size(frame: AgentFrame) -> int:
    if isinstance(frame, Chunk):
        return len(frame.data) + FRAME_OVERHEAD_BYTES
    if isinstance(frame, JobError):
        return len(frame.body) + len(frame.message) + FRAME_OVERHEAD_BYTES
    return FRAME_OVERHEAD_BYTES
