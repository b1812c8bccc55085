"""Writes the response of a job to its client, and disconnects a client that does not read.

aiohttp writes the head and the end of a response. The pieces between go to the transport directly:
to wake a task for each piece of a stream would cost more than to write it.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from aiohttp import HttpVersion11, web

from provider_agent.coordinator.connections.guarded_connection import connection_of
from provider_agent.coordinator.http.relayed_events import RelayedEvents
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import JobEnd, JobError

PIECE_BYTES: Final = 64 * 1024
"""The most bytes of one write. After each write, its bytes count as passed on, so that the agent
sees a slow client's progress."""

_FIRST_PIECE_BYTES: Final = 16 * 1024
"""The most bytes that are written with the head: aiohttp waits after writes of over 64 KiB."""

_CHECKS: Final = 4
"""Checks for progress per `stalled_s`, by one timer: a timer for each write would cost more."""


class ClientStream:
    """Writes the body of one prepared response.

    A client that reads nothing for `stalled_s` is disconnected, at most a quarter of that time
    later, or when its job ends with `slow_consumer`. aiohttp then cancels the handler, as for every
    client that disconnects.

    Args:
        request: the client's request.
        response: the prepared response to it, of which nothing is written yet.
        job: has output, or has ended.
        events: watches the bytes that are written; None if they are not an event stream.
        stalled_s: seconds that the client may read nothing while bytes wait for it.
        on_disconnect: called when this object disconnects the client.

    Attributes:
        written_bytes: the bytes of the response that were written.
    """

    def __init__(
        self,
        request: web.Request,
        response: web.StreamResponse,
        job: RunningJob,
        events: RelayedEvents | None,
        *,
        stalled_s: float,
        on_disconnect: Callable[[], None],
    ) -> None:
        self._request = request
        self._response = response
        self._job = job
        self._events = events
        self._interval_s = stalled_s / _CHECKS
        self._on_disconnect = on_disconnect
        self._loop = asyncio.get_running_loop()
        self._connection = connection_of(request)
        self._transport = request.transport
        self._is_chunked = request.version >= HttpVersion11
        self._scheduled = False
        self._all_written: asyncio.Future[None] = self._loop.create_future()
        self._unconsumed = 0
        """Written bytes that do not count as passed on yet, because the write buffer is full."""
        self._last_progress = (0, 0)
        self._unchanged_checks = 0
        self._writes = 0
        self.written_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "blocked" if self.has_unsent else "idle"
        return f"<ClientStream {state} writes={self._writes} unchanged={self._unchanged_checks}>"

    @property
    def has_unsent(self) -> bool:
        """Whether the client's socket has not accepted all written bytes, also after it closed."""
        return self._connection is not None and self._connection.is_writing_paused

    async def relay(self) -> JobEnd:
        """Write the bytes of the job; return its end when all of them are passed on.

        The response is then complete, unless the end is a `JobError`. A cancellation stops the
        writing.

        Raises:
            ConnectionError: the client has disconnected.
        """
        job, connection, transport = self._job, self._connection, self._transport
        if connection is None or transport is None:
            raise _disconnected()
        # Pauses writing while the buffer has any byte, so that `has_unsent` is exact.
        transport.set_write_buffer_limits(high=0)
        job.set_output_callback(self._schedule)
        connection.on_writable = self._schedule
        self._start_timer()
        try:
            if not self._rest_is_last:
                await self._write_head()
            self._forward()
            await self._all_written
            if job.end is None or transport.is_closing():
                raise _disconnected()
            if not isinstance(job.end, JobError):
                rest = self._take(PIECE_BYTES)
                await self._response.write_eof(rest)
                job.owner.consume(job, len(rest))
            return job.end
        finally:
            job.set_output_callback(None)
            connection.on_writable = None
            if self._timer is not None:
                self._timer.cancel()

    async def _write_head(self) -> None:
        """Write the head, in one packet with the first bytes."""
        piece = self._take(_FIRST_PIECE_BYTES)
        await self._response.write(piece)
        self._unconsumed += len(piece)

    @property
    def _rest_is_last(self) -> bool:
        """Whether the end of the response can be written together with all buffered bytes."""
        job = self._job
        if job.end is None or isinstance(job.end, JobError):
            return False
        return job.buffered_bytes <= PIECE_BYTES

    def _schedule(self) -> None:
        """Call `_forward` soon, once for everything that this iteration of the loop receives."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._forward)

    def _forward(self) -> None:
        """Write what is buffered, as far as the client's socket accepts it."""
        self._scheduled = False
        if self._all_written.done():
            return
        if self._transport is None or self._transport.is_closing():
            self._all_written.set_result(None)
            return
        try:
            self._write_buffered(self._transport)
        except Exception as error:  # noqa: BLE001 - `relay` raises it
            self._all_written.set_exception(error)

    def _write_buffered(self, transport: asyncio.Transport) -> None:
        job = self._job
        while not self.has_unsent:
            if self._unconsumed:
                job.owner.consume(job, self._unconsumed)
                self._unconsumed = 0
            if not job.buffered_bytes or self._rest_is_last:
                if job.end is not None:
                    self._all_written.set_result(None)
                return
            piece = self._take(PIECE_BYTES)
            self._unconsumed += len(piece)
            self._writes += 1
            transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._is_chunked else piece)
        if isinstance(job.end, JobError) and job.end.code == ErrorCode.SLOW_CONSUMER:
            self._disconnect()

    def _take(self, limit: int) -> bytes:
        piece = self._job.take(limit)
        self.written_bytes += len(piece)
        # Before the write: even if it is cancelled, its bytes reach the client.
        if self._events is not None and piece:
            self._events.add(piece)
        return piece

    def _start_timer(self) -> None:
        self._timer = self._loop.call_later(self._interval_s, self._check)

    def _check(self) -> None:
        transport = self._transport
        buffered = 0 if transport is None else transport.get_write_buffer_size()
        progress = (self._writes, buffered)
        if self.has_unsent and progress == self._last_progress:
            self._unchanged_checks += 1
        else:
            self._unchanged_checks = 0
        self._last_progress = progress
        if self._unchanged_checks >= _CHECKS:
            self._disconnect()
        else:
            self._start_timer()

    def _disconnect(self) -> None:
        self._on_disconnect()
        abort(self._request)


def _disconnected() -> ConnectionResetError:
    return ConnectionResetError("the client has disconnected")


def abort(request: web.Request) -> None:
    """Abort the connection without ending the response, so that the client sees a failure."""
    if request.transport is not None:
        request.transport.abort()
