"""One connection to the coordinator: dial, handshake, then reading and writing until it ends.

The reader never waits for work: it passes each frame to a callback that returns at once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from provider_agent.agent.config.addresses import shown_url
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.link.backoff import Disconnect, DisconnectCause
from provider_agent.agent.link.close_reason import explain_close, explain_rejection, violation
from provider_agent.agent.link.coalescing import Coalescing
from provider_agent.agent.link.dial import CLOSE_TIMEOUT_S, DialSettings, dial
from provider_agent.agent.link.dial_failure import DialFailed
from provider_agent.agent.link.frame_log import log_received, log_sent
from provider_agent.agent.link.link_connection import LinkConnection
from provider_agent.agent.link.message_encoder import MessageEncoder
from provider_agent.agent.link.watchdogs import Watchdogs
from provider_agent.agent.link.writer import LinkWriter
from provider_agent.event_log import EventLogger
from provider_agent.protocol.agent_protocol import AgentSession
from provider_agent.protocol.codec import VERSION_1, AgentDialect
from provider_agent.protocol.exceptions import ProtocolError
from provider_agent.protocol.frames import (
    Cancel,
    CoordinatorFrame,
    Drain,
    JobHeader,
    Rejected,
    RequestChunk,
    ResponseFrame,
    Welcome,
)
from provider_agent.protocol.limits import HANDSHAKE_TIMEOUT_S
from provider_agent.protocol.state import State

log = EventLogger(__name__)

_MAX_REASON_CHARS: Final = 120
"""A close frame holds at most 123 bytes of reason (RFC 6455, section 5.5)."""

_MAX_LOGGED_UNKNOWN_TYPES: Final = 64
"""Bounds the log and the memory that a coordinator with many unknown frame types can use."""


_CANCEL_STEPS: Final = 50
"""The HTTP clients need one or two to close a request; third-party adapters may need more."""


class _Ended(Exception):
    """Ends the connection for the reason that it carries."""

    def __init__(self, disconnect: Disconnect) -> None:
        super().__init__(disconnect.detail)
        self.disconnect = disconnect


class Link:
    """One connection to the coordinator, from dialing to its end.

    Args:
        settings: where and how to dial.
        new_protocol: creates the protocol state machine for the dialed authority.
        outbox: the frames to send.
        on_frame: called with every frame of an open connection, but only with the first `Drain`.
            It returns at once; a `ProtocolError` that it raises closes the connection.
        on_activity: called for every message and every pong; returns at once.
        on_unsendable: called with the first frame of a job that cannot be encoded or is too large;
            the link also drops the job's further frames of the same batch.
        coalescing: lets output accumulate under load.
        dialect: the wire encoding of frames.
        are_jobs_stopping: whether a job that was cancelled has not ended yet.
    """

    def __init__(
        self,
        settings: DialSettings,
        new_protocol: Callable[[str], AgentSession],
        outbox: Outbox,
        on_frame: Callable[[CoordinatorFrame], None],
        on_activity: Callable[[], None],
        on_unsendable: Callable[[ResponseFrame], None],
        coalescing: Coalescing,
        dialect: AgentDialect = VERSION_1,
        are_jobs_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self._protocol = new_protocol(settings.authority)
        self._outbox = outbox
        self._on_frame = on_frame
        self._on_activity = on_activity
        self._on_unsendable = on_unsendable
        self._coalescing = coalescing
        self._dialect = dialect
        self._are_jobs_stopping = are_jobs_stopping
        self._is_cancel_received = False
        self._unknown_types: set[int | str] = set()
        self._drain: Drain | None = None
        self._drain_received = asyncio.Event()

    @property
    def hello_unanswered(self) -> bool:
        """Whether `Hello` was sent, and neither `Welcome` nor `Rejected` has arrived."""
        return self._protocol.state is State.AWAITING_WELCOME

    def __repr__(self) -> str:
        return f"<Link {shown_url(self._settings.url)} {self._protocol.state}>"

    async def run(self) -> Disconnect:
        """Dial, and stay connected until the link ends; returns how it ended.

        Cancelling it closes the connection with 1000 (normal closure) before it returns.
        """
        try:
            connection = await dial(
                self._settings, self._dialect.subprotocol, self._dialect.max_to_agent_bytes
            )
        except DialFailed as failed:
            return failed.disconnect
        try:
            return await self._run_connection(connection)
        except asyncio.CancelledError:
            await _close(connection, CloseCode.NORMAL_CLOSURE, "the agent is stopping")
            raise
        except Exception:
            await _close(connection, CloseCode.INTERNAL_ERROR, "internal error of the agent")
            raise
        finally:
            # No effect after a close handshake; a stalled peer would not complete one.
            connection.transport.abort()

    async def _run_connection(self, connection: LinkConnection) -> Disconnect:
        try:
            welcome = await self._handshake(connection)
            await self._exchange_frames(connection, welcome.max_message_bytes)
        except _Ended as ended:
            return ended.disconnect
        except ProtocolError as error:
            # The text of a ProtocolError never holds what the peer sent.
            _log_violation(str(error), error.close_code)
            await _close(connection, error.close_code, str(error)[:_MAX_REASON_CHARS])
            return violation(str(error))
        except ConnectionClosed as closed:
            # Without resumption, another instance already expects the agent.
            restart_is_short = self._dialect.take_acks is not None
            disconnect = explain_close(closed, self._drain, restart_is_short=restart_is_short)
            if disconnect.cause is DisconnectCause.BROKEN_PEER and closed.sent is not None:
                _log_violation(closed.sent.reason, closed.sent.code)
            return disconnect
        # Only the drain task ends without an error; usually the reader ends first, with one.
        return Disconnect(DisconnectCause.LOST, "the connection ended")

    async def _handshake(self, connection: ClientConnection) -> Welcome:
        protocol = self._protocol
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                while protocol.welcome is None:
                    self._receive(await connection.recv())
                    if protocol.to_send:
                        frames = list(protocol.to_send)
                        protocol.to_send.clear()
                        for message in self._dialect.encode_messages(frames):
                            await connection.send(message, text=self._dialect.is_text)
                        log_sent(frames)
                return protocol.welcome
        except TimeoutError:
            text = f"no `Welcome` within {HANDSHAKE_TIMEOUT_S:.0f} s after the connection opened"
            raise _Ended(Disconnect(DisconnectCause.LOST, text)) from None

    async def _exchange_frames(self, connection: LinkConnection, max_bytes: int) -> None:
        """Read and write until one task ends, then cancel the others and wait for their end."""
        watchdogs = Watchdogs(connection, self._on_activity)
        dialect = self._dialect
        writer = LinkWriter(
            connection,
            self._outbox,
            MessageEncoder(dialect.encode_messages, max_bytes, self._on_unsendable),
            self._coalescing,
            watchdogs.progress,
            is_text=dialect.is_text,
            on_written=None if dialect.take_acks is None else self._acknowledge_written,
        )
        tasks = (
            writer.failed,
            asyncio.create_task(self._read(connection), name="link reader"),
            asyncio.create_task(
                _abort_when(connection, watchdogs.stalled()), name="link write watchdog"
            ),
            asyncio.create_task(
                _abort_when(connection, watchdogs.silent()), name="link ping watchdog"
            ),
            asyncio.create_task(self._close_when_drained(connection), name="link drain"),
        )
        try:
            writer.start()
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            writer.stop()
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        errors = [result for result in results if isinstance(result, Exception)]
        if errors:
            # An error other than `ConnectionClosed` is the cause of the end. The other tasks only
            # see that the connection is closed.
            raise min(errors, key=lambda error: isinstance(error, ConnectionClosed))

    async def _read(self, connection: ClientConnection) -> None:
        # Not `async for`: it would hide the code and reason of a normal closure.
        while True:
            self._receive(await connection.recv())
            if self._is_cancel_received:
                self._is_cancel_received = False
                await self._free_places()

    async def _free_places(self) -> None:
        """Let cancelled jobs end before the next message is read, if their ends are not sent.

        The coordinator counts their places as free. They end within a few steps of the event loop;
        one whose server ignores the cancellation must not hold up the reader.
        """
        if self._dialect.take_acks is not None:
            for _ in range(_CANCEL_STEPS):
                if not self._are_jobs_stopping():
                    return
                await asyncio.sleep(0)

    async def _close_when_drained(self, connection: ClientConnection) -> None:
        """After the coordinator's `Drain`: wait until all jobs have ended, then close."""
        await self._drain_received.wait()
        await self._outbox.wait_until_acknowledged()
        await _close(connection, CloseCode.NORMAL_CLOSURE, "drained")

    def _acknowledge_written(self) -> None:
        """Acknowledge what was written, for a coordinator that sends no acknowledgements."""
        if self._dialect.take_acks is not None:
            for ack in self._dialect.take_acks():
                self._on_frame(ack)

    def _receive(self, message: bytes | str) -> None:
        self._on_activity()
        dialect = self._dialect
        decoded = dialect.decode_from_coordinator(message, dialect.max_to_agent_bytes)
        log_received(decoded)
        for frame in decoded.frames:
            if isinstance(frame, JobHeader | RequestChunk):
                self._coalescing.request_received()
            elif isinstance(frame, Cancel):
                self._is_cancel_received = True
            event = self._protocol.receive(frame)
            if event is not None:
                self._handle(event)
        for frame_type in decoded.unknown_types:
            self._log_unknown(frame_type)

    def _handle(self, frame: CoordinatorFrame) -> None:
        if isinstance(frame, Rejected):
            raise _Ended(explain_rejection(frame))
        if isinstance(frame, Drain):
            # The last `Drain` applies. Only the first is passed on, so that it alone is logged.
            self._drain = frame
            if self._drain_received.is_set():
                return
            self._drain_received.set()
        self._on_frame(frame)

    def _log_unknown(self, frame_type: int | str) -> None:
        """Log each unknown frame type once: a newer coordinator may send some regularly."""
        known = self._unknown_types
        if frame_type not in known and len(known) < _MAX_LOGGED_UNKNOWN_TYPES:
            known.add(frame_type)
            log.warning("skipping unknown frames", type=frame_type)


async def _abort_when(connection: ClientConnection, watchdog: Awaitable[str]) -> None:
    """Abort the connection when the watchdog returns its reason."""
    reason = await watchdog
    connection.transport.abort()
    raise _Ended(Disconnect(DisconnectCause.LOST, reason))


async def _close(connection: ClientConnection, code: int, reason: str) -> None:
    """Close with a timeout: the library waits indefinitely for space in the write buffer."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await connection.close(code, reason)
    except TimeoutError:
        connection.transport.abort()


def _log_violation(reason: str, close_code: int) -> None:
    log.warning("coordinator violated the protocol", reason=reason, close_code=int(close_code))
