"""One agent's WebSocket: a reader, a writer and one `Goodbye`.

The reader hands messages to the `ConnectedAgent` and never awaits an HTTP client. The writer is the
only task that sends, so that frames keep their order. Whatever ends the connection — the agent, a
malformed message, silence, a newer connection of the same key — is one `Goodbye`, which also says
whether the agent may come back for the jobs that are still open.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from aiohttp import WebSocketError, WSCloseCode, WSMsgType, web

from coordinator.connected_agent import ConnectedAgent, Roster
from coordinator.goodbye import Goodbye, closed_by_agent, link_lost
from coordinator.settings import CoordinatorSettings
from protocol.codec import VERSION_1
from protocol.exceptions import ProtocolError
from protocol.session import CoordinatorSession, State

log = logging.getLogger("provider_agent.coordinator")

WRITE_STALL_S: Final = 30.0
"""An agent that takes nothing for so long is gone, whatever its kernel says."""

CLOSE_S: Final = 5.0
"""How long the closing handshake may take before the transport is cut."""

MAX_WAITING_FRAMES: Final = 65_536
"""Acknowledgements that wait to be sent; only an agent that never reads lets them pile up."""

SILENT_HEARTBEATS: Final = 3
"""One may be lost and one late; after three the agent is gone."""

_MAX_REASON_BYTES: Final = 120  # RFC 6455, 5.5: 125 for a control frame, two of them for the code


class AgentLink:
    """One connection.

    Args:
        socket: the prepared WebSocket.
        abort: cuts its transport at once.
        session: fresh, with a fresh nonce.
        session_id: 16 bytes for `Welcome`.
        roster: who admits agents.
        settings: the coordinator's.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        socket: web.WebSocketResponse,
        *,
        abort: Callable[[], None],
        session: CoordinatorSession,
        session_id: bytes,
        roster: Roster,
        settings: CoordinatorSettings,
        clock: Callable[[], float],
    ) -> None:
        self._socket = socket
        self._abort = abort
        self._settings = settings
        self._wake = asyncio.Event()
        self._stop: asyncio.Future[Goodbye] = asyncio.get_running_loop().create_future()
        self._agent = ConnectedAgent(
            session=session,
            session_id=session_id,
            roster=roster,
            settings=settings,
            clock=clock,
            wake=self._wake.set,
            close=self.close,
        )

    def __repr__(self) -> str:
        return f"<AgentLink {self._agent!r} waiting={self._agent.waiting}>"

    def close(self, goodbye: Goodbye) -> None:
        """End the connection; the first call decides. `run` returns soon after."""
        if not self._stop.done():
            self._stop.set_result(goodbye)

    async def run(self) -> None:
        """Serve the agent until the connection ends. Cancelling it ends the connection at once."""
        self._wake.set()  # the challenge waits already
        reader = asyncio.create_task(self._read(), name="agent reader")
        writer = asyncio.create_task(self._write(), name="agent writer")
        goodbye = link_lost("connection lost")
        try:
            done, _ = await asyncio.wait(
                {reader, writer, self._stop}, return_when=asyncio.FIRST_COMPLETED
            )
            goodbye = (self._stop if self._stop in done else done.pop()).result()
            self._agent.lose(may_return=goodbye.may_return)
            await _end(reader, writer)
            await self._close(goodbye)
        except asyncio.CancelledError:  # aiohttp's way to tell that the connection is lost
            goodbye = self._verdict(reader)
            raise
        finally:
            self._agent.lose(may_return=goodbye.may_return)
            await _end(reader, writer)

    def _verdict(self, reader: asyncio.Task[Goodbye]) -> Goodbye:
        """How the connection ended, when it was over before anybody could be told."""
        if reader.done() and not reader.cancelled() and reader.exception() is None:
            return reader.result()
        return self._ended_by_peer(None)

    async def _read(self) -> Goodbye:
        silence_s = self._settings.heartbeat_ms / 1000 * SILENT_HEARTBEATS
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._settings.handshake_timeout_s) as patience:
                while True:
                    message = await self._socket.receive()
                    if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
                        return self._ended_by_peer(message.data)
                    self._agent.take_message(message.data)
                    if self._agent.state is State.CLOSED:
                        return Goodbye(WSCloseCode.POLICY_VIOLATION, "rejected", flush=True)
                    if self._agent.waiting > MAX_WAITING_FRAMES:
                        return Goodbye(WSCloseCode.POLICY_VIOLATION, "reads too slowly")
                    if self._agent.state is State.OPEN:
                        patience.reschedule(loop.time() + silence_s)
        except ProtocolError as error:
            self._log_malformed(error.close_code, str(error))
            return Goodbye(error.close_code, str(error))
        except TimeoutError:
            return Goodbye(WSCloseCode.POLICY_VIOLATION, "silent for too long", may_return=True)

    def _ended_by_peer(self, data: object) -> Goodbye:
        """The agent closed, or sent something that is no WebSocket frame or is too big."""
        is_malformed = isinstance(data, WebSocketError)
        if isinstance(data, WebSocketError):
            self._log_malformed(data.code, "not a WebSocket message, or too big")
        return closed_by_agent(self._socket.close_code, is_malformed=is_malformed)

    def _log_malformed(self, code: int, error: str) -> None:
        fields = {"agent": self._agent.name, "code": int(code), "error": error}
        log.warning("malformed message from agent", extra={"fields": fields})

    async def _write(self) -> Goodbye:
        """Send what waits, as it comes; no timers, so that an idle link adds no delay."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._send_waiting()
            except TimeoutError:
                self._abort()
                return link_lost("took nothing for too long")
            except ConnectionError:
                return link_lost("connection lost")

    async def _send_waiting(self) -> None:
        while batch := self._agent.next_batch():
            async with asyncio.timeout(WRITE_STALL_S):
                await self._socket.send_bytes(VERSION_1.encode(batch))

    async def _close(self, goodbye: Goodbye) -> None:
        fields = {
            "agent": self._agent.name,
            "code": int(goodbye.close_code),
            "reason": goodbye.reason,
        }
        log.info("agent link closed", extra={"fields": fields})
        try:
            async with asyncio.timeout(CLOSE_S):
                if goodbye.flush:
                    await self._send_waiting()
                message = goodbye.reason.encode()[:_MAX_REASON_BYTES]
                await self._socket.close(code=goodbye.close_code, message=message)
        except (TimeoutError, ConnectionError):
            self._abort()


async def _end(*tasks: asyncio.Task[Goodbye]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
