"""Two watchdogs of an open link, for what TCP does not report: a stalled and a vanished peer.

The library's own keepalive does not help: its ping waits for space in the write buffer without a
timeout, and after a missed pong it waits for a close handshake with a vanished peer.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from provider_agent.agent.link.link_connection import LinkConnection
from provider_agent.websocket.write_progress import (
    CHECK_INTERVAL_S,
    WRITE_STALL_S,
    WriteProgress,
    WriteTimer,
)

PING_EVERY_S: Final = 20.0
"""The interval of pings, which keep the connection in the state tables of NATs and firewalls. It is
also the longest wait for bytes after a ping, so a peer that vanished is detected within two
intervals, even when nothing else is sent."""


class Watchdogs:
    """The two watchdogs of one connection.

    Args:
        socket: the connection.
        on_pong: called for each pong.

    Attributes:
        progress: records the writes that wait for space in the write buffer.
    """

    def __init__(self, socket: LinkConnection, on_pong: Callable[[], None]) -> None:
        self._socket = socket
        self._on_pong = on_pong
        self.progress = WriteProgress()
        self._now = asyncio.get_running_loop().time
        self._ping_timer = WriteTimer(self.progress, self._now)

    async def stalled(self) -> str:
        """Return the reason for the log when writing has made no progress for `WRITE_STALL_S`."""
        transport = self._socket.transport
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            if self.progress.stalled(transport.get_write_buffer_size(), self._now()):
                return f"sending made no progress for {WRITE_STALL_S:.0f} s"

    async def silent(self) -> str:
        """Return the reason for the log when no byte arrives for `PING_EVERY_S` after a ping.

        Any byte counts, because a pong may wait behind a large message on a slow link.

        Raises:
            ConnectionClosed: the connection ended first.
        """
        while True:
            await asyncio.sleep(PING_EVERY_S)
            with self._ping_timer:
                pong = asyncio.ensure_future(await self._socket.ping())
            received = -1
            while not pong.done():
                if received == self._socket.received_bytes:
                    return f"no answer to a ping within {PING_EVERY_S:.0f} s"
                received = self._socket.received_bytes
                await asyncio.wait([pong], timeout=PING_EVERY_S)
            await pong
            self._on_pong()
