"""A coordinator that a test controls, with the real protocol and any number of agents.

It admits agents, records every frame and checks it against the protocol. A test sends jobs or any
other frames, valid or not, and can break the connection.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Self, TypeVar

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
from provider_agent.protocol.exceptions import ProtocolError
from provider_agent.protocol.frames import (
    AgentFrame,
    Chunk,
    CoordinatorFrame,
    Hello,
    JobEnd,
    JobError,
    JobResult,
    Rejected,
    RequestChunk,
    Welcome,
)
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import (
    BATCH_BYTES,
    CONNECT_PATH,
    KIB,
    MAX_MESSAGE_TO_COORDINATOR_BYTES,
    SUBPROTOCOL,
    WINDOW_BYTES,
)
from provider_agent.protocol.resumption import plan_resumption
from provider_agent.protocol.state import State

NONCE = b"n" * 32
RECEIVE_BUFFER_BYTES = 128 * KIB
FrameT = TypeVar("FrameT", bound=AgentFrame)


def welcome(
    *, heartbeat_ms: int = 3_600_000, window_bytes: int = WINDOW_BYTES, resume_ms: int = 0
) -> Welcome:
    return Welcome(
        provider_id="provider-1",
        session_id=b"s" * 16,
        heartbeat_ms=heartbeat_ms,
        resume_ms=resume_ms,
        window_bytes=window_bytes,
        max_message_bytes=MAX_MESSAGE_TO_COORDINATOR_BYTES,
    )


class AgentConnection:
    """One connection of an agent, as the scripted coordinator sees it.

    Args:
        socket: the WebSocket.
        authority: the `host:port` that the agent dialed.
        previous: the connection whose session is resumed if `Hello` asks for it; None: no session
            can be resumed.

    Attributes:
        socket: the WebSocket.
        protocol: the state machine of this connection.
        frames: all received frames.
        messages: all received frames, by message. A frame that violates the protocol is in
            `messages`, but not in `frames`.
        data: the received bytes of each job's response.
        acknowledges: whether to send acknowledgements at once; else with the next
            `send_pending_frames`, `send_jobs` or `cancel`.
        violation: the agent's violation of the protocol, if any.
        closed: set when the connection has ended.
    """

    def __init__(
        self,
        socket: ServerConnection,
        authority: str,
        previous: "AgentConnection | None" = None,
    ) -> None:
        self.socket = socket
        self._previous = previous
        self.protocol = CoordinatorProtocol(nonce=NONCE, name="scripted", authorities=[authority])
        self.frames: list[AgentFrame] = []
        self.messages: list[list[AgentFrame]] = []
        self.data: dict[bytes, bytearray] = {}
        self.acknowledges = True
        self.violation: ProtocolError | None = None
        self.closed = asyncio.Event()
        self._unreturned: list[AgentFrame] = []
        self._changed = asyncio.Event()

    # --- receiving ---------------------------------------------------------------------

    async def next(self, kind: type[FrameT], job_id: bytes | None = None) -> FrameT:
        """Wait for the oldest frame of a type (and job) that was not returned yet."""
        while True:
            for frame in self._unreturned:
                if isinstance(frame, kind) and job_id in (None, getattr(frame, "job_id", None)):
                    self._unreturned.remove(frame)
                    return frame
            assert not self.closed.is_set(), (
                f"the connection closed without a {kind.__name__}: {self.frames}"
            )
            self._changed.clear()
            await self._changed.wait()

    async def end(self, job_id: bytes) -> JobEnd:
        """Wait for the end of a job."""
        while not (ends := _ends(self._unreturned, job_id)):
            assert not self.closed.is_set(), "the connection closed before the job ended"
            self._changed.clear()
            await self._changed.wait()
        (end,) = ends
        self._unreturned.remove(end)
        return end

    async def error(self, job_id: bytes) -> JobError:
        """Wait for the end of a job, which must be an error."""
        end = await self.end(job_id)
        assert isinstance(end, JobError), f"the job succeeded: {end}"
        return end

    def ends(self, job_id: bytes) -> list[JobEnd]:
        """Return all received ends of a job; more than one is a defect."""
        return _ends(self.frames, job_id)

    async def wait_for_bytes(self, job_id: bytes, count: int) -> bytes:
        """Wait for `count` bytes of a job's response; return all received bytes."""
        while len(self.data.get(job_id, b"")) < count:
            assert not self.closed.is_set(), "the connection closed before these bytes"
            self._changed.clear()
            await self._changed.wait()
        return bytes(self.data[job_id])

    # --- sending ---------------------------------------------------------------

    async def send(self, *frames: CoordinatorFrame | Job) -> None:
        """Send frames in one message, whether the protocol allows them or not.

        A `Job` is sent as its header and one piece with its whole request.
        """
        await self.socket.send(VERSION_1.encode([one for f in frames for one in _expand(f)]))

    async def send_raw(self, message: bytes | str) -> None:
        """Send one WebSocket message with any content."""
        await self.socket.send(message)

    async def send_pending_frames(self) -> None:
        """Send the frames that the protocol has queued."""
        while frames := self.protocol.next_frames(BATCH_BYTES):
            await self.send(*frames)

    async def send_jobs(self, *jobs: Job) -> None:
        """Send jobs to the agent, together with all pending frames."""
        for job in jobs:
            self.protocol.start_job(job)
            self.data[job.job_id] = bytearray()
        await self.send_pending_frames()

    async def cancel(self, job_id: bytes, reason: str = "") -> None:
        """Cancel a job."""
        self.protocol.cancel_job(job_id, reason)
        await self.send_pending_frames()

    async def settle(self) -> None:
        """Wait until the agent's WebSocket library has received everything sent so far.

        The agent may not have processed these messages yet. But the library answers a ping after it
        has received the messages before the ping. So if the agent runs in this event loop, the task
        that reads these messages is at least scheduled.
        """
        await (await self.socket.ping())

    async def close(self, code: int, reason: str = "") -> None:
        """Close the connection with a close handshake."""
        await self.socket.close(code, reason)

    def cut(self) -> None:
        """Abort the connection without a close handshake."""
        self.socket.transport.abort()

    def stop_reading(self) -> None:
        """Read no more, so that the agent's data fills the kernel buffers."""
        self.socket.transport.pause_reading()

    # --- the connection --------------------------------------------------------------------------

    async def serve(self, answer: Callable[[Hello], Welcome | Rejected | None]) -> None:
        """Read until the connection ends."""
        try:
            await self.send_pending_frames()
            async for message in self.socket:
                decoded = VERSION_1.decode_from_agent(message, MAX_MESSAGE_TO_COORDINATOR_BYTES)
                self.messages.append(decoded.frames)
                for frame in decoded.frames:
                    await self._receive(frame, answer)
                if self.acknowledges or self.protocol.state is not State.OPEN:
                    await self.send_pending_frames()
                self._changed.set()
        except ConnectionClosed:
            pass
        except ProtocolError as violation:
            self.violation = violation
            await self.socket.close(violation.close_code)
        finally:
            self.closed.set()
            self._changed.set()

    async def _receive(
        self, frame: AgentFrame, answer: Callable[[Hello], Welcome | Rejected | None]
    ) -> None:
        event = self.protocol.receive(frame)
        self.frames.append(frame)
        self._unreturned.append(frame)
        if isinstance(event, Chunk):
            self.data[event.job_id] += event.data
            self.protocol.consumed(event.job_id, len(event.data))
        elif isinstance(event, Hello):
            reply = answer(event)
            if isinstance(reply, Rejected):
                self.protocol.reject(reply)
            elif reply is not None:
                self._accept(reply, event)
                await self.send_pending_frames()

    def _accept(self, reply: Welcome, hello: Hello) -> None:
        previous = self._previous
        if previous is None or hello.session_id is None:
            self.protocol.accept(reply)
            return
        resumption = plan_resumption(
            hello.live_jobs, previous.protocol.streams, (), previous.protocol.ended
        )
        self.protocol.accept(reply, resumption)
        self.data = {job_id: previous.data[job_id] for job_id in resumption.streams}


class ScriptedCoordinator:
    """A coordinator that listens while its `async with` block runs.

    `next_connection` returns the connections of the agents in order.

    Attributes:
        answer: returns the response to `Hello`; None: no response.
        sends_challenge: whether a new connection receives `Challenge`.
        tls: the TLS context, to be set before it listens; None: no TLS.
        subprotocol: the subprotocol that the coordinator selects; None: it selects none.
        resumes: whether a connection can resume the session of the previous one.
        refusals: HTTP responses (status and headers) to the next upgrade requests, one per request.
        upgrades: the headers of every upgrade request.
        connections: all connections of agents, in order.
    """

    def __init__(
        self, answer: Callable[[Hello], Welcome | Rejected | None] = lambda _hello: welcome()
    ) -> None:
        self.answer = answer
        self.sends_challenge = True
        self.resumes = False
        self.subprotocol: str | None = SUBPROTOCOL
        self.refusals: deque[tuple[int, dict[str, str]]] = deque()
        self.upgrades: list[dict[str, str]] = []
        self.connections: list[AgentConnection] = []
        self.port = 0
        self.tls: ssl.SSLContext | None = None
        self._new_connections: asyncio.Queue[AgentConnection] = asyncio.Queue()
        self._server: Server | None = None

    @property
    def url(self) -> str:
        scheme = "ws" if self.tls is None else "wss"
        return f"{scheme}://127.0.0.1:{self.port}{CONNECT_PATH}"

    async def next_connection(self) -> AgentConnection:
        """Wait for the next connection after its upgrade; an agent that reconnects has several."""
        return await self._new_connections.get()

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._handle,
            sock=_listener(self.port),
            ssl=self.tls,
            process_request=self._process_upgrade,
            select_subprotocol=self._select_subprotocol,
            compression=None,
            ping_interval=None,
            close_timeout=1,
            max_size=MAX_MESSAGE_TO_COORDINATOR_BYTES,
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()
        violations = [one.violation for one in self.connections if one.violation is not None]
        if error is None:
            assert not violations, f"the agent broke the protocol: {violations}"

    async def stop(self) -> None:
        """Abort all connections and stop listening."""
        assert self._server is not None
        for connection in self.connections:
            connection.cut()
        self._server.close()
        await self._server.wait_closed()

    async def _handle(self, socket: ServerConnection) -> None:
        previous = self.connections[-1] if self.resumes and self.connections else None
        connection = AgentConnection(socket, f"127.0.0.1:{self.port}", previous)
        self.connections.append(connection)
        self._new_connections.put_nowait(connection)
        if not self.sends_challenge:
            connection.protocol.to_send.clear()
        await connection.serve(self.answer)

    def _process_upgrade(self, connection: ServerConnection, request: Request) -> Response | None:
        self.upgrades.append({name.lower(): value for name, value in request.headers.raw_items()})
        if not self.refusals:
            return None
        status, headers = self.refusals.popleft()
        response = connection.respond(HTTPStatus(status), "no\n")
        for name, value in headers.items():
            response.headers[name] = value
        return response

    def _select_subprotocol(
        self, connection: ServerConnection, offered: Sequence[Subprotocol]
    ) -> Subprotocol | None:
        return None if self.subprotocol is None else Subprotocol(self.subprotocol)


def _listener(port: int) -> socket.socket:
    # asyncio sets TCP_NODELAY only on sockets created with IPPROTO_TCP; without TCP_NODELAY, the
    # second of two frames waits for the delayed TCP acknowledgement of the first.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # A small buffer, so that `stop_reading` soon blocks the agent, whatever the system's default.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    listener.bind(("127.0.0.1", port))
    return listener


def _expand(frame: CoordinatorFrame | Job) -> list[CoordinatorFrame]:
    if not isinstance(frame, Job):
        return [frame]
    pieces = [RequestChunk(frame.job_id, 0, frame.request)] if frame.request else []
    return [frame.header, *pieces]


def _ends(frames: Iterable[AgentFrame], job_id: bytes) -> list[JobEnd]:
    return [f for f in frames if isinstance(f, JobResult | JobError) and f.job_id == job_id]
