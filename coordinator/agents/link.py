"""One agent's WebSocket: a reader, a writer and one `CloseReason`.

The reader hands messages to the `ConnectedAgent` and never awaits an HTTP client. The writer is the
only task that sends, so that frames keep their order. Whatever ends the connection — the agent, a
malformed message, silence, a newer connection of the same key — is one `CloseReason`, which also
says whether the agent may come back for the jobs that are still open.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from aiohttp import WebSocketError, WSCloseCode, WSMsgType, web

from provider_agent.coordinator.agents.close_reason import CloseReason, closed_by_agent, link_lost
from provider_agent.coordinator.agents.connected_agent import AgentRegistry, ConnectedAgent
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.event_log import EventLogger
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.exceptions import ProtocolError
from provider_agent.protocol.session import CoordinatorSession, State

log = EventLogger(__name__)

WRITE_STALL_S: Final = 30.0
"""An agent that takes nothing for so long is gone, whatever its kernel says."""

CLOSE_S: Final = 5.0
"""How long the closing handshake may take before the transport is cut."""

MAX_QUEUED_FRAMES: Final = 65_536
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
        registry: who admits agents.
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
        registry: AgentRegistry,
        settings: CoordinatorSettings,
        clock: Callable[[], float],
    ) -> None:
        self._socket = socket
        self._abort = abort
        self._settings = settings
        self._wake = asyncio.Event()
        self._stop: asyncio.Future[CloseReason] = asyncio.get_running_loop().create_future()
        self._agent = ConnectedAgent(
            session=session,
            session_id=session_id,
            registry=registry,
            settings=settings,
            clock=clock,
            wake=self._wake.set,
            close=self.close,
        )

    def __repr__(self) -> str:
        return f"<AgentLink {self._agent!r} waiting={self._agent.queued_frames}>"

    def close(self, close_reason: CloseReason) -> None:
        """End the connection; the first call decides. `run` returns soon after."""
        if not self._stop.done():
            self._stop.set_result(close_reason)

    async def run(self) -> None:
        """Serve the agent until the connection ends. Cancelling it ends the connection at once."""
        self._wake.set()  # the challenge waits already
        reader = asyncio.create_task(self._read(), name="agent reader")
        writer = asyncio.create_task(self._write(), name="agent writer")
        close_reason = link_lost("connection lost")
        try:
            done, _ = await asyncio.wait(
                {reader, writer, self._stop}, return_when=asyncio.FIRST_COMPLETED
            )
            close_reason = (self._stop if self._stop in done else done.pop()).result()
            self._agent.leave(keep_session=close_reason.keep_session)
            await _end(reader, writer)
            await self._close(close_reason)
        except asyncio.CancelledError:  # aiohttp's way to tell that the connection is lost
            close_reason = self._verdict(reader)
            raise
        finally:
            self._agent.leave(keep_session=close_reason.keep_session)
            await _end(reader, writer)

    def _verdict(self, reader: asyncio.Task[CloseReason]) -> CloseReason:
        """How the connection ended, when it was over before anybody could be told."""
        if reader.done() and not reader.cancelled() and reader.exception() is None:
            return reader.result()
        return self._ended_by_peer(None)

    async def _read(self) -> CloseReason:
        silence_s = self._settings.heartbeat_ms / 1000 * SILENT_HEARTBEATS
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._settings.handshake_timeout_s) as patience:
                while True:
                    message = await self._socket.receive()
                    if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
                        return self._ended_by_peer(message.data)
                    self._agent.receive_message(message.data)
                    if self._agent.state is State.CLOSED:
                        return CloseReason(WSCloseCode.POLICY_VIOLATION, "rejected", flush=True)
                    if self._agent.queued_frames > MAX_QUEUED_FRAMES:
                        return CloseReason(WSCloseCode.POLICY_VIOLATION, "reads too slowly")
                    if self._agent.state is State.OPEN:
                        patience.reschedule(loop.time() + silence_s)
        except ProtocolError as error:
            self._log_malformed(error.close_code, str(error))
            return CloseReason(error.close_code, str(error))
        except TimeoutError:
            return CloseReason(
                WSCloseCode.POLICY_VIOLATION, "silent for too long", keep_session=True
            )

    def _ended_by_peer(self, data: object) -> CloseReason:
        """The agent closed, or sent something that is no WebSocket frame or is too big."""
        is_malformed = isinstance(data, WebSocketError)
        if isinstance(data, WebSocketError):
            self._log_malformed(data.code, "not a WebSocket message, or too big")
        return closed_by_agent(self._socket.close_code, is_malformed=is_malformed)

    def _log_malformed(self, code: int, error: str) -> None:
        fields = {"agent": self._agent.name, "code": int(code), "error": error}
        log.warning("malformed message from agent", **fields)

    async def _write(self) -> CloseReason:
        """Send what waits, as it comes; no timers, so that an idle link adds no delay."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._send_waiting()
            except TimeoutError:
                self._abort()
                return link_lost("reads nothing for too long")
            except ConnectionError:
                return link_lost("connection lost")

    async def _send_waiting(self) -> None:
        while batch := self._agent.next_batch():
            async with asyncio.timeout(WRITE_STALL_S):
                await self._socket.send_bytes(VERSION_1.encode(batch))

    async def _close(self, close_reason: CloseReason) -> None:
        fields = {
            "agent": self._agent.name,
            "code": int(close_reason.close_code),
            "reason": close_reason.reason,
        }
        log.info("agent link closed", **fields)
        try:
            async with asyncio.timeout(CLOSE_S):
                if close_reason.flush:
                    await self._send_waiting()
                message = close_reason.reason.encode()[:_MAX_REASON_BYTES]
                await self._socket.close(code=close_reason.close_code, message=message)
        except (TimeoutError, ConnectionError):
            self._abort()


async def _end(*tasks: asyncio.Task[CloseReason]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
