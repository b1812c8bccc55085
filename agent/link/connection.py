"""One connection to the coordinator: dial, handshake, then a reader and a writer until it ends.

The reader never waits for work: it hands each frame on by a plain call. The writer sends what the
outbox has, as few and as large messages as that gives.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close, CloseCode

from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.link.backoff import Disconnect, DisconnectCause
from provider_agent.agent.link.dial import CLOSE_TIMEOUT_S, DialSettings, dial
from provider_agent.agent.link.dial_failure import DialFailed
from provider_agent.agent.link.message_size import MessageSize
from provider_agent.agent.link.sanitize import sanitize
from provider_agent.agent.link.watchdogs import Watchdogs
from provider_agent.event_log import EventLogger
from provider_agent.protocol.codec import VERSION_1, Dialect
from provider_agent.protocol.exceptions import ProtocolError
from provider_agent.protocol.frames import (
    Ack,
    Cancel,
    CoordinatorFrame,
    Drain,
    Job,
    Rejected,
    Welcome,
)
from provider_agent.protocol.limits import HANDSHAKE_TIMEOUT_S, MAX_MESSAGE_TO_AGENT_BYTES, REPLACED
from provider_agent.protocol.session import AgentSession

log = EventLogger(__name__)

_FINAL_CODES: Final = {
    CloseCode.PROTOCOL_ERROR: DisconnectCause.INCOMPATIBLE,
    REPLACED: DisconnectCause.REPLACED,
}
_WAIT_CODES: Final = frozenset({CloseCode.SERVICE_RESTART, CloseCode.TRY_AGAIN_LATER})


class LinkUser(Protocol):
    """Who reacts to the coordinator. Plain calls that return at once."""

    def heard(self) -> None:
        """The coordinator is there: a message or a pong came. Called often."""
        ...

    def welcomed(self, welcome: Welcome) -> None:
        """The agent is connected."""
        ...

    def job_offered(self, job: Job) -> None:
        """Run this job, or refuse it."""
        ...

    def cancel_requested(self, cancel: Cancel) -> None:
        """Stop this job."""
        ...

    def acknowledged(self, ack: Ack) -> None:
        """Forget these bytes."""
        ...

    def drain_requested(self, drain: Drain) -> None:
        """The coordinator is going away."""
        ...


class _Ended(Exception):
    """The connection is over; carries how."""

    def __init__(self, disconnect: Disconnect) -> None:
        super().__init__(disconnect.detail)
        self.disconnect = disconnect


class Link:
    """One attempt to be connected.

    Args:
        settings: where to dial.
        new_session: makes the rules of this connection for the dialled authority.
        outbox: what to send.
        user: who reacts.
        dialect: how frames look on the wire.
    """

    def __init__(
        self,
        settings: DialSettings,
        new_session: Callable[[str], AgentSession],
        outbox: Outbox,
        user: LinkUser,
        dialect: Dialect = VERSION_1,
    ) -> None:
        self._settings = settings
        self._session = new_session(settings.authority)
        self._outbox = outbox
        self._user = user
        self._dialect = dialect
        self._unknown_types: set[int] = set()
        self._drain: Drain | None = None
        self._drain_asked = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Link {self._settings.url} {self._session.state}>"

    async def run(self) -> Disconnect:
        """Be connected until it ends, and tell how it did.

        Cancelling it closes the connection with 1000 (done) before it returns.
        """
        try:
            socket = await dial(self._settings, self._dialect.subprotocol)
        except DialFailed as failed:
            return failed.disconnect
        try:
            return await self._converse(socket)
        except asyncio.CancelledError:
            await _close(socket, CloseCode.NORMAL_CLOSURE, "the agent is stopping")
            raise
        finally:
            # A no-op after a close handshake; after a stall there is nobody to shake hands with.
            socket.transport.abort()

    async def _converse(self, socket: ClientConnection) -> Disconnect:
        try:
            await self._handshake(socket)
            await self._exchange(socket)
        except _Ended as ended:
            return ended.disconnect
        except ProtocolError as error:
            # The text of these errors never holds what the peer sent.
            log.warning(
                "the coordinator broke the protocol",
                reason=str(error),
                close_code=error.close_code,
            )
            await _close(socket, error.close_code, str(error)[:120])
            return Disconnect(
                DisconnectCause.BROKEN_PEER, f"the coordinator broke the protocol: {error}"
            )
        except ConnectionClosed as closed:
            return self._closed(closed)
        return Disconnect(DisconnectCause.LOST, "the connection ended")

    async def _handshake(self, socket: ClientConnection) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                while self._session.welcome is None:
                    self._receive(await socket.recv())
                    if self._session.to_send:
                        message = self._dialect.encode(self._session.to_send)
                        self._session.to_send.clear()
                        await socket.send(message)
        except TimeoutError:
            text = f"no welcome within {HANDSHAKE_TIMEOUT_S:.0f} s of the open connection"
            raise _Ended(Disconnect(DisconnectCause.LOST, text)) from None

    async def _exchange(self, socket: ClientConnection) -> None:
        """Read and write until either ends; both are over when this returns or raises."""
        dogs = Watchdogs(socket, self._user.heard)
        tasks = (
            asyncio.create_task(self._write(socket, dogs), name="link writer"),
            asyncio.create_task(self._read(socket), name="link reader"),
            asyncio.create_task(_abort_when(socket, dogs.stalled()), name="link write watchdog"),
            asyncio.create_task(_abort_when(socket, dogs.silent()), name="link silence watchdog"),
            asyncio.create_task(self._leave_when_drained(socket), name="link drain"),
        )
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        errors = [result for result in results if isinstance(result, Exception)]
        if errors:
            # Whoever noticed the cause; that the connection is closed is what the other one sees.
            raise min(errors, key=lambda error: isinstance(error, ConnectionClosed))

    async def _read(self, socket: ClientConnection) -> None:
        # Not `async for`: it would hide the close code and reason of a courteous end.
        while True:
            self._receive(await socket.recv())

    async def _write(self, socket: ClientConnection, dogs: Watchdogs) -> None:
        outbox, encode, sending = self._outbox, self._dialect.encode, dogs.sending
        size = MessageSize()
        while True:
            await outbox.wait()
            message = encode(outbox.next_batch(size.limit_bytes))
            with sending:
                await socket.send(message)
            size.took(sending.took_s)

    async def _leave_when_drained(self, socket: ClientConnection) -> None:
        """After the coordinator's `Drain`: see every job through, then close."""
        await self._drain_asked.wait()
        await self._outbox.wait_until_acknowledged()
        await _close(socket, CloseCode.NORMAL_CLOSURE, "drained")

    def _receive(self, message: bytes | str) -> None:
        self._user.heard()
        decoded = self._dialect.decode_from_coordinator(message, MAX_MESSAGE_TO_AGENT_BYTES)
        for frame in decoded.frames:
            event = self._session.receive(frame)
            if event is not None:
                self._react(event)
        for frame_type in decoded.unknown_types:
            self._skip(frame_type)

    def _react(self, event: CoordinatorFrame) -> None:
        match event:
            case Ack():
                self._user.acknowledged(event)
            case Job():
                self._user.job_offered(event)
            case Cancel():
                self._user.cancel_requested(event)
            case Welcome():
                self._user.welcomed(event)
            case Drain():
                # The newest counts, but a flood of them must not become a flood in the log.
                self._drain = event
                if not self._drain_asked.is_set():
                    self._drain_asked.set()
                    self._user.drain_requested(event)
            case Rejected():
                raise _Ended(_rejected(event))

    def _closed(self, closed: ConnectionClosed) -> Disconnect:
        drain = self._drain
        told = None if drain is None else drain.reconnect_after_ms / 1000 or None
        if closed.sent is not None and not closed.rcvd_then_sent:
            if drain is not None and closed.sent.code == CloseCode.NORMAL_CLOSURE:
                end = DisconnectCause.LOST if told is None else DisconnectCause.TOLD_TO_WAIT
                return Disconnect(
                    end, f"the coordinator is going away: {sanitize(drain.reason)}", told
                )
            return _closed_here(closed.sent)
        frame = closed.rcvd
        if frame is None:
            return Disconnect(DisconnectCause.LOST, "the connection broke")
        reason = sanitize(frame.reason)
        detail = f"the coordinator closed the connection: {frame.code} {reason}".rstrip()
        if frame.code in _FINAL_CODES:
            return Disconnect(_FINAL_CODES[frame.code], detail)
        if told is not None:
            return Disconnect(DisconnectCause.TOLD_TO_WAIT, detail, told)
        return Disconnect(
            DisconnectCause.TOLD_TO_WAIT if frame.code in _WAIT_CODES else DisconnectCause.LOST,
            detail,
        )

    def _skip(self, frame_type: int) -> None:
        """A newer coordinator may say more than this version understands; once is enough to log."""
        if frame_type not in self._unknown_types and len(self._unknown_types) < 64:
            self._unknown_types.add(frame_type)
            log.warning("skipping unknown frames", type=frame_type)


async def _abort_when(socket: ClientConnection, broken: Awaitable[str]) -> None:
    reason = await broken
    socket.transport.abort()
    raise _Ended(Disconnect(DisconnectCause.LOST, reason))


async def _close(socket: ClientConnection, code: int, reason: str) -> None:
    """Say goodbye. The library would wait for room in the write buffer without a clock."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await socket.close(code, reason)
    except TimeoutError:
        socket.transport.abort()


def _rejected(rejected: Rejected) -> Disconnect:
    detail = f"rejected by the coordinator: {sanitize(rejected.code)}: {sanitize(rejected.message)}"
    if rejected.retry_after_ms is None:
        return Disconnect(DisconnectCause.REJECTED, detail)
    return Disconnect(DisconnectCause.TOLD_TO_WAIT, detail, rejected.retry_after_ms / 1000)


def _closed_here(sent: Close) -> Disconnect:
    """The WebSocket library closed the connection; its reasons hold nothing of the content."""
    fields = {"reason": sent.reason, "close_code": int(sent.code)}
    log.warning("the coordinator broke the protocol", **fields)
    return Disconnect(
        DisconnectCause.BROKEN_PEER, f"the coordinator broke the protocol: {sent.reason}"
    )
