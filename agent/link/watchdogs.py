"""Two watchdogs of an open link, for what TCP does not report: a stalled and a vanished peer.

The library's own keepalive does not help: its ping waits for space in the write buffer without a
timeout, and after a missed pong it waits for a close handshake with a vanished peer.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final

from websockets.asyncio.client import ClientConnection

WRITE_STALL_S: Final = 30.0
"""No byte of the waiting data left this process for so long: the peer vanished or does not read,
whatever its kernel acknowledges. A link that makes progress is kept, however slow it is."""

CHECK_INTERVAL_S: Final = WRITE_STALL_S / 8
"""The time between two checks of the write buffer."""

PING_EVERY_S: Final = 20.0
"""Keeps the connection in the state tables of NATs and firewalls. A pong may take as long, so a
peer that vanished is detected within two intervals, even when nothing else is sent."""


class WriteProgress:
    """Decides whether writing makes progress. Pure: events and times are arguments."""

    def __init__(self) -> None:
        self._waiting = 0
        self._progress_at = 0.0
        self._buffered = 0

    def begin(self, now: float) -> None:
        """A write starts."""
        if not self._waiting:
            self._progress_at = now
        self._waiting += 1

    def end(self, now: float) -> None:
        """A write has ended, successfully or not."""
        self._waiting -= 1
        self._progress_at = now

    def stalled(self, buffered: int, now: float) -> bool:
        """Whether a write has made no progress for `WRITE_STALL_S`.

        Args:
            buffered: bytes in the transport's write buffer.
            now: of the same clock as in the other calls.
        """
        if buffered < self._buffered:
            self._progress_at = now
        self._buffered = buffered
        return self._waiting > 0 and now - self._progress_at >= WRITE_STALL_S


class WriteTimer:
    """A context manager around a write that may wait for space in the write buffer.

    Reused for every write of one task, because the writer enters it for every message.

    Attributes:
        duration_s: how long the last write took.
    """

    def __init__(self, progress: WriteProgress) -> None:
        self.duration_s = 0.0
        self._progress = progress
        self._now = asyncio.get_running_loop().time
        self._entered_at = 0.0

    def __enter__(self) -> None:
        self._entered_at = now = self._now()
        self._progress.begin(now)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        now = self._now()
        self.duration_s = now - self._entered_at
        self._progress.end(now)


class Watchdogs:
    """The two watchdogs of one connection.

    Args:
        socket: the connection.
        on_pong: called for each pong.

    Attributes:
        write_timer: to be entered by the writer around every write.
    """

    def __init__(self, socket: ClientConnection, on_pong: Callable[[], None]) -> None:
        self._socket = socket
        self._on_pong = on_pong
        self._progress = WriteProgress()
        self._now = asyncio.get_running_loop().time
        self.write_timer = WriteTimer(self._progress)
        self._ping_timer = WriteTimer(self._progress)

    async def stalled(self) -> str:
        """Return the reason for the log when writing has made no progress for `WRITE_STALL_S`."""
        transport = self._socket.transport
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            if self._progress.stalled(transport.get_write_buffer_size(), self._now()):
                return f"sending made no progress for {WRITE_STALL_S:.0f} s"

    async def silent(self) -> str:
        """Return the reason for the log when a ping is not answered within `PING_EVERY_S`.

        Raises:
            ConnectionClosed: the connection ended first.
        """
        while True:
            await asyncio.sleep(PING_EVERY_S)
            with self._ping_timer:
                pong = await self._socket.ping()
            try:
                async with asyncio.timeout(PING_EVERY_S):
                    await pong
            except TimeoutError:
                return f"no answer to a ping within {PING_EVERY_S:.0f} s"
            self._on_pong()
