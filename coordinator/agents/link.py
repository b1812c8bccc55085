"""One agent's WebSocket: a reader, a writer, a watchdog and one `CloseReason`.

The reader passes messages to the `ConnectedAgent` and never waits for an HTTP client. To answer a
ping, it waits while the write buffer is full, so that a flood of pings cannot queue unlimited
pongs. Frames are sent only by the writer and, after it has ended, by `_close`, so that they keep
their order. The connection ends for exactly one `CloseReason`: for example, the agent closed it,
was silent or was replaced.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from aiohttp import WebSocketError, WSCloseCode, WSMsgType, web

from provider_agent.coordinator.agents.close_reason import (
    REJECTED,
    CloseReason,
    closed_by_agent,
    link_lost,
)
from provider_agent.coordinator.agents.connected_agent import ConnectedAgent
from provider_agent.coordinator.agents.received_bytes import ReceivedBytes
from provider_agent.coordinator.agents.registry import AgentRegistry
from provider_agent.coordinator.connections.limited_log import LimitedLog
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.codec import VERSION_1, CoordinatorDialect
from provider_agent.protocol.coordinator_protocol import BAD_SIGNATURE, CoordinatorProtocol
from provider_agent.protocol.exceptions import ProtocolError
from provider_agent.protocol.state import State
from provider_agent.websocket.message_size import MessageSize
from provider_agent.websocket.write_progress import CHECK_INTERVAL_S, WriteProgress, WriteTimer

PING_S: Final = 5.0
"""How long an agent may take to answer the ping that checks whether it is alive. Meanwhile another
agent with its key waits for `Welcome`, so this must be shorter than the handshake timeout."""

CLOSE_S: Final = 5.0
"""The timeout of the closing handshake, after which the connection is aborted."""

MAX_QUEUED_FRAMES: Final = 65_536
"""With more queued control frames the connection ends. Nearly all of them are acknowledgements, and
an agent that reads does not let so many accumulate."""

ACKNOWLEDGE_S: Final = 1.0
"""The longest delay of an acknowledgement. Without it, slow streams of text would each keep up to
a quarter of the window, 256 KiB by default, in the agent's memory."""

SILENT_HEARTBEATS: Final = 3
"""The connection ends when nothing arrives for this many heartbeat intervals, so that one late
heartbeat does not end it."""

OVERDUE_HEARTBEATS: Final = 1.5
"""After this many intervals without a byte, the agent may be lost: it receives no jobs, and those
without output move to other agents."""

_MAX_REASON_BYTES: Final = 120  # RFC 6455, 5.5 allows 123: 125 bytes less 2 for the close code

_MAX_HOST_CHARS: Final = 259
"""The longest host name in text form, with a port."""


class AgentLink:
    """One WebSocket connection of an agent.

    Args:
        socket: the prepared WebSocket.
        transport: the transport below the WebSocket.
        protocol: the protocol state of this connection, with an unused nonce.
        session_id: 16 bytes for `Welcome`, unless the agent resumes an older session.
        registry: admits the agent and keeps track of it.
        settings: the coordinator's settings.
        clock: monotonic, in seconds.
        remote: the agent's network address.
        limited_log: logs the events of a peer that has not been admitted.
        on_welcome: called when the agent has been admitted.
        host: the `Host` header of the upgrade, for the log only: any peer can write it.
        dialect: the wire encoding of this connection.
    """

    def __init__(
        self,
        socket: web.WebSocketResponse,
        *,
        transport: asyncio.Transport,
        protocol: CoordinatorProtocol,
        session_id: bytes,
        registry: AgentRegistry,
        settings: CoordinatorSettings,
        clock: Callable[[], float],
        remote: str,
        limited_log: LimitedLog,
        on_welcome: Callable[[], None],
        host: str = "",
        dialect: CoordinatorDialect = VERSION_1,
    ) -> None:
        self._message_type = WSMsgType.TEXT if dialect.is_text else WSMsgType.BINARY
        self._socket = socket
        self._host = host
        self._on_welcome = on_welcome
        self._limited_log = limited_log
        self._transport = transport
        self._received_bytes = ReceivedBytes(transport)
        self._settings = settings
        self._progress = WriteProgress()
        self._write_timer = WriteTimer(self._progress, clock)
        self._message_size = MessageSize()
        self._last_received_at = clock()
        self._clock = clock
        self._wake = asyncio.Event()
        self._message_received = asyncio.Event()
        self._ended = False
        self._checks: set[asyncio.Task[None]] = set()
        self._acknowledge_timer: asyncio.TimerHandle | None = None
        self._stop: asyncio.Future[CloseReason] = asyncio.get_running_loop().create_future()
        self._agent = ConnectedAgent(
            protocol=protocol,
            session_id=session_id,
            registry=registry,
            settings=settings,
            clock=clock,
            wake=self._wake.set,
            close=self.close,
            check_alive=self._check_alive,
            remote=remote,
            dialect=dialect,
        )

    def __repr__(self) -> str:
        return f"<AgentLink {self._agent!r} queued={self._agent.queued_frames}>"

    def close(self, close_reason: CloseReason) -> None:
        """Make `run` close the connection; only the first call has an effect."""
        if not self._stop.done():
            self._stop.set_result(close_reason)

    async def run(self) -> None:
        """Serve the agent until the connection ends; a cancellation ends it at once."""
        self._wake.set()  # `Challenge` is queued already
        reader = asyncio.create_task(self._read(), name="agent reader")
        writer = asyncio.create_task(self._write(), name="agent writer")
        watchdog = asyncio.create_task(self._watch(), name="agent watchdog")
        close_reason = link_lost("connection lost")
        try:
            done, _ = await asyncio.wait(
                {reader, writer, watchdog, self._stop}, return_when=asyncio.FIRST_COMPLETED
            )
            close_reason = (self._stop if self._stop in done else done.pop()).result()
            self._leave(close_reason)
            await _cancel(reader, writer, watchdog)
            await self._close(close_reason)
        except asyncio.CancelledError:  # aiohttp cancels the handler when the connection is lost
            close_reason = self._reason_after_cancel(reader)
            raise
        finally:
            self._leave(close_reason)
            await _cancel(reader, writer, watchdog)
            if self._acknowledge_timer is not None:
                self._acknowledge_timer.cancel()
            self._message_received.set()
            await asyncio.gather(*self._checks)
            # This object is part of a reference cycle, and the socket holds an incomplete message.
            del self._socket

    def _leave(self, close_reason: CloseReason) -> None:
        """Log the end of the connection and leave the registry; only the first call counts."""
        if not self._ended:
            self._ended = True
            self._log_end(close_reason)
            self._agent.leave(keep_session=close_reason.keep_session)

    def _log_end(self, close_reason: CloseReason) -> None:
        if (rejection := self._agent.rejection) is not None:
            dialed = {"host": self._host[:_MAX_HOST_CHARS]}
            self._log(
                logging.WARNING,
                "agent rejected",
                code=rejection.code,
                reason=rejection.message,
                address=self._agent.remote,
                **(dialed if rejection.code == BAD_SIGNATURE else {}),
            )
        code, reason = int(close_reason.close_code), close_reason.reason
        self._log(logging.INFO, "agent link closed", code=code, reason=reason)

    def _log(self, level: int, event: str, **fields: object) -> None:
        """Log an event; peers that are not admitted have one limit together."""
        logger = self._agent.log or self._limited_log
        peer = {"agent": self._agent.name} if self._agent.name else {"address": self._agent.remote}
        logger.log(level, event, **{**peer, **fields})

    def _reason_after_cancel(self, reader: asyncio.Task[CloseReason]) -> CloseReason:
        """Return the close reason of a cancelled `run`: the reader's, if the reader has ended."""
        if reader.done() and not reader.cancelled() and reader.exception() is None:
            return reader.result()
        return self._closed_by_agent(None)

    async def _read(self) -> CloseReason:
        try:
            async with asyncio.timeout(self._settings.handshake_timeout_s) as timeout:
                while True:
                    message = await self._socket.receive()
                    self._message_received.set()
                    if message.type is WSMsgType.PING:
                        await self._socket.pong(message.data)
                        continue
                    if message.type is WSMsgType.PONG:
                        continue
                    if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
                        return self._closed_by_agent(message.data)
                    self._last_received_at = self._clock()
                    self._agent.receive_message(message.data)
                    if self._acknowledge_timer is None and self._agent.in_flight:
                        self._acknowledge_later()
                    if self._agent.state is State.CLOSED:
                        return REJECTED
                    if self._agent.queued_frames > MAX_QUEUED_FRAMES:
                        return CloseReason(WSCloseCode.POLICY_VIOLATION, "reads too slowly")
                    if self._agent.state is State.OPEN and timeout.when() is not None:
                        timeout.reschedule(None)
                        self._on_welcome()
        except ProtocolError as error:
            self._log_protocol_error(error.close_code, str(error))
            return CloseReason(error.close_code, str(error))
        except TimeoutError:
            return CloseReason(WSCloseCode.POLICY_VIOLATION, "no `Hello` in time")

    def _acknowledge_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._acknowledge_timer = loop.call_later(ACKNOWLEDGE_S, self._acknowledge)

    def _acknowledge(self) -> None:
        self._acknowledge_timer = None
        if self._agent.acknowledge():
            self._acknowledge_later()

    async def _watch(self) -> CloseReason:
        """Return when the agent is silent, or sending to it makes no progress.

        Before that, report when its heartbeat is overdue.

        Every byte that moves counts: on a slow link, one message may take minutes.
        """
        heartbeat_s = self._settings.heartbeat_ms / 1000
        while True:
            await asyncio.sleep(min(CHECK_INTERVAL_S, heartbeat_s / 2))
            now = self._clock()
            if self._progress.stalled(self._transport.get_write_buffer_size(), now):
                self._transport.abort()
                return link_lost("reads nothing for too long")
            if self._received_bytes.increased():
                self._last_received_at = now
            silent_s = now - self._last_received_at
            if self._agent.state is not State.OPEN:
                continue
            self._agent.set_overdue(silent_s >= heartbeat_s * OVERDUE_HEARTBEATS)
            if silent_s >= heartbeat_s * SILENT_HEARTBEATS:
                reason = "silent for too long"
                return CloseReason(WSCloseCode.POLICY_VIOLATION, reason, keep_session=True)

    def _check_alive(self, report: Callable[[bool], None]) -> None:
        """Call `report` with whether the agent sends anything within `PING_S` after a ping."""
        task = asyncio.create_task(self._ping(report), name="agent check")
        self._checks.add(task)
        task.add_done_callback(self._checks.discard)

    async def _ping(self, report: Callable[[bool], None]) -> None:
        self._message_received.clear()
        try:
            async with asyncio.timeout(PING_S):
                await self._socket.ping()
                await self._message_received.wait()
        except (TimeoutError, ConnectionError):
            # A timeout proves nothing: a full write buffer may have delayed the ping. Only the
            # arrival of a message counts.
            pass
        report(self._message_received.is_set() and not self._ended)

    def _closed_by_agent(self, data: object) -> CloseReason:
        """Return the close reason of a connection that the agent has ended.

        Args:
            data: the data of aiohttp's last message: a `WebSocketError` if the agent's bytes were
                not a valid WebSocket message.
        """
        is_malformed = isinstance(data, WebSocketError)
        if isinstance(data, WebSocketError):
            self._log_protocol_error(data.code, "not a WebSocket message, or too big")
        return closed_by_agent(self._socket.close_code, is_malformed=is_malformed)

    def _log_protocol_error(self, code: int, error: str) -> None:
        self._log(logging.WARNING, "protocol error from agent", code=int(code), error=error)

    async def _write(self) -> CloseReason:
        """Send frames as soon as they are queued; no timer delays them to fill a batch."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._send_queued()
            except ConnectionError:
                return link_lost("connection lost")

    async def _send_queued(self) -> None:
        size, write_timer = self._message_size, self._write_timer
        while messages := self._agent.next_messages(size.limit_bytes):
            for message in messages:
                with write_timer:
                    await self._socket.send_frame(message, self._message_type)
                size.adapt(write_timer.duration_s)

    async def _close(self, close_reason: CloseReason) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                if close_reason.flush:
                    await self._send_queued()
                message = close_reason.reason.encode()[:_MAX_REASON_BYTES]
                await self._socket.close(code=close_reason.close_code, message=message)
        except (TimeoutError, ConnectionError):
            self._transport.abort()


async def _cancel(*tasks: asyncio.Task[CloseReason]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
