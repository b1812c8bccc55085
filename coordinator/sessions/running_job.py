"""What has arrived for one job and is not yet passed on."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from provider_agent.protocol.frames import Job, JobEnd, JobStarted


class JobOwner(Protocol):
    """Who has the job: a connection, or what is left of one that is lost."""

    def acknowledge(self, job: "RunningJob", count: int) -> None:
        """`count` bytes of the job are with the client; as many more may come."""
        ...

    def abandon(self, job: "RunningJob") -> None:
        """Nobody waits for the job any more."""
        ...


class RunningJob:
    """The meeting point of an agent's reader and the HTTP request that waits for the job.

    The reader calls `on_…`, plain calls that never wait; the request awaits `wait` and takes what
    is there. What is held is bounded by the window, which `ReceiveStream` enforces; many small
    chunks become one piece, so that a busy stream costs fewer wake-ups.

    Args:
        job: as it was sent.
        owner: who has it.
        ends_at: its deadline, by the coordinator's clock.

    Attributes:
        job: as it was sent; sent again when it is lost with its link.
        job_id: which job.
        owner: who has it now; moves when its agent goes on over another link.
        ends_at: its deadline.
        send_count: how often it was sent.
        started: status and content type, once the agent has told them.
        end: the job's one end, once it is there; bytes may still wait to be taken.
        unacknowledged: bytes received and not yet reported as passed on.
    """

    __slots__ = (
        "_buffer",
        "_ended",
        "_news",
        "end",
        "ends_at",
        "job",
        "job_id",
        "owner",
        "send_count",
        "started",
        "unacknowledged",
    )

    def __init__(self, job: Job, owner: JobOwner, ends_at: float) -> None:
        self.job = job
        self.job_id = job.job_id
        self.owner = owner
        self.ends_at = ends_at
        self.send_count = 1
        self.started: JobStarted | None = None
        self.end: JobEnd | None = None
        self.unacknowledged = 0
        self._buffer = bytearray()
        self._ended: Callable[[JobEnd], None] | None = None
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        end = type(self.end).__name__ if self.end is not None else "open"
        return f"<RunningJob {self.job_id.hex()} {end} waiting={len(self._buffer)}>"

    @property
    def buffered_bytes(self) -> int:
        """Bytes that `take` would return."""
        return len(self._buffer)

    def on_started(self, started: JobStarted) -> None:
        """The response has begun. Nobody wakes up before its first byte or its end."""
        self.started = started

    def on_data(self, data: bytes) -> None:
        """More of the response."""
        self._buffer += data
        self.unacknowledged += len(data)
        self._news.set()

    def on_end(self, end: JobEnd) -> None:
        """The job is over; a later end is ignored."""
        if self.end is None:
            self.end = end
            self._news.set()
            if self._ended is not None:
                self._ended(end)

    def set_end_callback(self, ended: Callable[[JobEnd], None]) -> None:
        """Have `ended` called when the job's end comes, for a request that cannot `wait` just now.

        It is not called when the end is there already.
        """
        self._ended = ended

    async def wait(self) -> None:
        """Until there are bytes to take or the job is over. Cancelling it loses nothing."""
        while not self._buffer and self.end is None:
            self._news.clear()
            await self._news.wait()

    def take(self) -> bytearray:
        """Everything that waits; empty when there is nothing."""
        taken, self._buffer = self._buffer, bytearray()
        return taken
