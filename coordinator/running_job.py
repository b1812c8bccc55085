"""What has arrived for one job and is not yet passed on."""

import asyncio

from protocol.frames import JobEnd, JobStarted


class RunningJob:
    """The meeting point of an agent's reader and the HTTP request that waits for the job.

    The reader calls `on_…`, plain calls that never wait; the request awaits `wait` and takes what
    is there. What is held is bounded by the window, which `ReceiveStream` enforces; many small
    chunks become one piece, so that a busy stream costs fewer wake-ups.

    Attributes:
        job_id: which job.
        started: status and content type, once the agent has told them.
        end: the job's one end, once it is there; bytes may still wait to be taken.
        unpassed: bytes received and not yet reported as passed on.
    """

    __slots__ = ("_buffer", "_news", "end", "job_id", "started", "unpassed")

    def __init__(self, job_id: bytes) -> None:
        self.job_id = job_id
        self.started: JobStarted | None = None
        self.end: JobEnd | None = None
        self.unpassed = 0
        self._buffer = bytearray()
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        end = type(self.end).__name__ if self.end is not None else "open"
        return f"<RunningJob {self.job_id.hex()} {end} waiting={len(self._buffer)}>"

    @property
    def waiting(self) -> int:
        """Bytes that `take` would return."""
        return len(self._buffer)

    def on_started(self, started: JobStarted) -> None:
        """The response has begun. Nobody wakes up before its first byte or its end."""
        self.started = started

    def on_data(self, data: bytes) -> None:
        """More of the response."""
        self._buffer += data
        self.unpassed += len(data)
        self._news.set()

    def on_end(self, end: JobEnd) -> None:
        """The job is over; a later end is ignored."""
        if self.end is None:
            self.end = end
            self._news.set()

    async def wait(self) -> None:
        """Until there are bytes to take or the job is over. Cancelling it loses nothing."""
        while not self._buffer and self.end is None:
            self._news.clear()
            await self._news.wait()

    def take(self) -> bytearray:
        """Everything that waits; empty when there is nothing."""
        taken, self._buffer = self._buffer, bytearray()
        return taken
