"""Two watches over an open link, for what TCP does not tell: a stalled peer, and one that is gone.

The library's own keep-alive is no help: its ping waits, without a clock, for room in the write
buffer, and after a missed pong it waits for a close handshake with nobody.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final

from websockets.asyncio.client import ClientConnection

WRITE_STALL_S: Final = 30.0
"""No byte left this process for so long, though some wanted to: the peer is gone, or takes nothing,
whatever its kernel says. A link that moves is left alone, however slow it is."""

LOOK_S: Final = WRITE_STALL_S / 8
"""Between two looks at the write buffer."""

PING_EVERY_S: Final = 20.0
"""Keeps connection tables on the way alive. A pong may take as long, so that a peer that vanished
without a word is noticed within two of them, also when nothing else is sent."""


class WriteProgress:
    """Whether what waits to be sent moves. Pure: it is told what happens, and when."""

    def __init__(self) -> None:
        self._waiting = 0
        self._moved_at = 0.0
        self._buffered = 0

    def begin(self, now: float) -> None:
        """Somebody begins to send."""
        if not self._waiting:
            self._moved_at = now
        self._waiting += 1

    def end(self, now: float) -> None:
        """It is sent, or given up."""
        self._waiting -= 1
        self._moved_at = now

    def stalled(self, buffered: int, now: float) -> bool:
        """Whether nothing moved for `WRITE_STALL_S`.

        Args:
            buffered: bytes in the transport's buffer now.
            now: as in the other calls.
        """
        if buffered < self._buffered:
            self._moved_at = now
        self._buffered = buffered
        return self._waiting > 0 and now - self._moved_at >= WRITE_STALL_S


class Sending:
    """To be entered around everything that waits for room in the write buffer.

    One for the whole connection, because the writer enters it for every message.

    Attributes:
        took_s: how long it was entered the last time, by one user at a time.
    """

    def __init__(self, progress: WriteProgress) -> None:
        self.took_s = 0.0
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
        self.took_s = now - self._entered_at
        self._progress.end(now)


class Watchdogs:
    """The two watches over one connection.

    Args:
        socket: the connection.
        heard: called for each pong.
    """

    def __init__(self, socket: ClientConnection, heard: Callable[[], None]) -> None:
        self._socket = socket
        self._heard = heard
        self._progress = WriteProgress()
        self._now = asyncio.get_running_loop().time
        self.sending = Sending(self._progress)
        self._pinging = Sending(self._progress)

    async def stalled(self) -> str:
        """Return, with the reason for the log, when sending makes no progress."""
        transport = self._socket.transport
        while True:
            await asyncio.sleep(LOOK_S)
            if self._progress.stalled(transport.get_write_buffer_size(), self._now()):
                return f"sending made no progress for {WRITE_STALL_S:.0f} s"

    async def silent(self) -> str:
        """Return, with the reason for the log, when a ping is not answered in time.

        Raises:
            ConnectionClosed: the connection ended otherwise.
        """
        while True:
            await asyncio.sleep(PING_EVERY_S)
            with self._pinging:
                pong = await self._socket.ping()
            try:
                async with asyncio.timeout(PING_EVERY_S):
                    await pong
            except TimeoutError:
                return f"no answer to a ping within {PING_EVERY_S:.0f} s"
            self._heard()
