"""One running job: the response bytes between the agent's connection and the client's request."""

import asyncio
import hashlib
from collections.abc import Callable
from typing import ClassVar, Protocol

from provider_agent.protocol.frames import JobEnd, JobStarted
from provider_agent.protocol.job import Job


class JobOwner(Protocol):
    """The owner of running jobs: the jobs of a connection, or a detached session."""

    def consume(self, job: "RunningJob", count: int) -> None:
        """Count `count` more bytes as passed on to the client, to be covered by an `Ack`."""
        ...

    def abandon(self, job: "RunningJob") -> None:
        """Drop the job, because its response is no longer needed.

        If its end was held, it is acknowledged now.
        """
        ...


class RunningJob:
    """Buffers the response of one job until the HTTP request reads it.

    The connection's reader calls the `on_…` methods, which never wait. The request awaits `wait`,
    later sets a callback instead, and calls `take`. Buffered bytes are not acknowledged, and
    `ReceiveStream` rejects more than a window of unacknowledged bytes; this limits the buffer.
    Chunks that arrive between two calls of `take` are joined.

    Args:
        job: the job, with its whole request.
        owner: the jobs of the connection that the job is sent over.
        ends_at: the job's deadline, in seconds of the coordinator's clock.
        public_key: the identity of the agent that runs the job.

    Attributes:
        holds_end: whether the end of the job is acknowledged to the agent only when the job is
            abandoned, because the response is needed until then.
        job: the job, which is sent again if its header was lost with a link.
        job_id: the job's id.
        owner: a detached session after the link is lost; the jobs of a connection otherwise.
        ends_at: the job's deadline, in seconds of the coordinator's clock.
        public_key: the identity of the agent that runs the job.
        lost: whether its agent has been without a link for some time.
        send_count: how often the job was sent.
        started: status, content type and headers, once received.
        end: the end of the job, once received; the buffer may still hold bytes.
        unconsumed: received bytes that are not yet passed on to the client.
    """

    holds_end: ClassVar[bool] = False

    __slots__ = (
        "_buffer",
        "_changed",
        "_hash",
        "_output_callback",
        "end",
        "ends_at",
        "job",
        "job_id",
        "lost",
        "owner",
        "public_key",
        "send_count",
        "started",
        "unconsumed",
    )

    def __init__(self, job: Job, owner: JobOwner, ends_at: float, public_key: bytes = b"") -> None:
        self.job = job
        self.job_id = job.job_id
        self.owner = owner
        self.ends_at = ends_at
        self.public_key = public_key
        self.lost = False
        self.send_count = 1
        self.started: JobStarted | None = None
        self.end: JobEnd | None = None
        self.unconsumed = 0
        self._buffer = bytearray()
        self._hash: hashlib._Hash | None = None
        self._output_callback: Callable[[], None] | None = None
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        end = type(self.end).__name__ if self.end is not None else "open"
        return f"<RunningJob {self.job_id.hex()} {end} buffered={len(self._buffer)}>"

    @property
    def buffered_bytes(self) -> int:
        """How many bytes `take` would return."""
        return len(self._buffer)

    @property
    def sha256(self) -> bytes | None:
        """The hash of all received bytes; None if the job has no receipt."""
        return None if self._hash is None else self._hash.digest()

    def expect_receipt(self, expected: bool) -> None:
        """Set whether the job's end must have a receipt; called when the job is sent."""
        self._hash = hashlib.sha256() if expected else None

    def on_started(self, started: JobStarted) -> None:
        """Store the start of the response. It does not wake `wait`: only bytes or the end do."""
        self.started = started

    def on_data(self, data: bytes) -> None:
        """Append new bytes of the response."""
        self._buffer += data
        if self._hash is not None:
            self._hash.update(data)
        self.unconsumed += len(data)
        self._output_changed()

    def on_end(self, end: JobEnd) -> None:
        """Store the end of the job; ignore a second end."""
        if self.end is None:
            self.end = end
            self._output_changed()

    def _output_changed(self) -> None:
        if self._output_callback is None:
            self._changed.set()
        else:
            self._output_callback()

    def set_output_callback(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` when bytes or the end arrive, instead of waking `wait`.

        A call costs less than to wake the task of the request for each piece of a stream.
        """
        self._output_callback = callback

    @property
    def has_output(self) -> bool:
        """Whether bytes are buffered or the job has ended."""
        return bool(self._buffer) or self.end is not None

    async def wait(self) -> None:
        """Wait until bytes are buffered or the job has ended. Cancelling it loses nothing."""
        while not self.has_output:
            self._changed.clear()
            await self._changed.wait()

    async def wait_while(self, *, lost: bool) -> None:
        """Wait as `wait` does, but return also when `self.lost` differs from `lost`."""
        while not self.has_output and self.lost is lost:
            self._changed.clear()
            await self._changed.wait()

    def set_lost(self, lost: bool) -> None:
        """Record that the agent has been without a link for some time, or has returned."""
        self.lost = lost
        self._changed.set()

    def take(self, limit: int | None = None) -> bytes:
        """Remove and return buffered bytes: all, or at most `limit`."""
        if limit is None or len(self._buffer) <= limit:
            taken, self._buffer = bytes(self._buffer), bytearray()
        else:
            taken = bytes(self._buffer[:limit])
            del self._buffer[:limit]
        return taken
