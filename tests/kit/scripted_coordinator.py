"""A coordinator that does what a test tells it: the real protocol, one agent at a time or several.

It admits agents by itself, keeps every frame and checks each against the rules of the protocol; the
test gives jobs, sends whatever it likes, or misbehaves below the protocol.
"""

import asyncio
import socket
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
from provider_agent.protocol.exceptions import ProtocolError
from provider_agent.protocol.frames import (
    AgentFrame,
    Chunk,
    CoordinatorFrame,
    Hello,
    Job,
    JobEnd,
    JobError,
    JobResult,
    Rejected,
    Welcome,
)
from provider_agent.protocol.limits import (
    CONNECT_PATH,
    KIB,
    MAX_MESSAGE_TO_COORDINATOR_BYTES,
    SUBPROTOCOL,
    WINDOW_BYTES,
)
from provider_agent.protocol.session import CoordinatorSession, State, resumable

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


class AgentAtCoordinator:
    """One connection of an agent.

    Attributes:
        socket: the WebSocket.
        session: the protocol's rules for it.
        frames: every frame the agent sent.
        messages: the same, by message.
        data: the response of each job so far.
        acknowledges: pass every response on at once; False: only `flush` sends acknowledgements.
        violation: what the agent did wrong, if anything.
        closed: the connection is over.
    """

    def __init__(
        self,
        socket: ServerConnection,
        authority: str,
        lost: "AgentAtCoordinator | None" = None,
    ) -> None:
        self.socket = socket
        self._lost = lost
        self.session = CoordinatorSession(nonce=NONCE, name="scripted", authorities=[authority])
        self.frames: list[AgentFrame] = []
        self.messages: list[list[AgentFrame]] = []
        self.data: dict[bytes, bytearray] = {}
        self.acknowledges = True
        self.violation: ProtocolError | None = None
        self.closed = asyncio.Event()
        self._untaken: list[AgentFrame] = []
        self._changed = asyncio.Event()

    # --- what the agent says ---------------------------------------------------------------------

    async def next(self, kind: type[FrameT], job_id: bytes | None = None) -> FrameT:
        """The oldest frame of a kind (and job) that was not asked for yet; waits for it."""
        while True:
            for frame in self._untaken:
                if isinstance(frame, kind) and job_id in (None, getattr(frame, "job_id", None)):
                    self._untaken.remove(frame)
                    return frame
            assert not self.closed.is_set(), f"no {kind.__name__} before the end: {self.frames}"
            self._changed.clear()
            await self._changed.wait()

    async def end(self, job_id: bytes) -> JobEnd:
        """How a job ended; waits for it."""
        while not (ends := _ends(self._untaken, job_id)):
            assert not self.closed.is_set(), "no end of the job before the connection's"
            self._changed.clear()
            await self._changed.wait()
        (end,) = ends
        self._untaken.remove(end)
        return end

    async def error(self, job_id: bytes) -> JobError:
        """The error that a job ended with; waits for it."""
        end = await self.end(job_id)
        assert isinstance(end, JobError), f"the job succeeded: {end}"
        return end

    def ends(self, job_id: bytes) -> list[JobEnd]:
        """Every end of a job so far; more than one is a defect."""
        return _ends(self.frames, job_id)

    async def wait_for_bytes(self, job_id: bytes, count: int) -> bytes:
        """The response of a job, once it is at least so long."""
        while len(self.data.get(job_id, b"")) < count:
            assert not self.closed.is_set(), "the connection ended before the response"
            self._changed.clear()
            await self._changed.wait()
        return bytes(self.data[job_id])

    # --- what the coordinator says ---------------------------------------------------------------

    async def send(self, *frames: CoordinatorFrame) -> None:
        """Send frames, allowed or not."""
        await self.socket.send(VERSION_1.encode(frames))

    async def send_raw(self, message: bytes | str) -> None:
        """Send one WebSocket message of any content."""
        await self.socket.send(message)

    async def flush(self) -> None:
        """Send what the session wants sent."""
        if self.session.to_send:
            frames = list(self.session.to_send)
            self.session.to_send.clear()
            await self.send(*frames)

    async def give(self, *jobs: Job) -> None:
        """Give the agent jobs, in one message."""
        for job in jobs:
            self.session.start_job(job)
            self.session.to_send.remove(job)
            self.data[job.job_id] = bytearray()
        await self.send(*jobs)

    async def cancel(self, job_id: bytes, reason: str = "") -> None:
        """Ask for the end of a job."""
        self.session.cancel_job(job_id, reason)
        await self.flush()

    async def settle(self) -> None:
        """The agent answers a ping only after it has read all that was sent before it."""
        await (await self.socket.ping())

    async def close(self, code: int, reason: str = "") -> None:
        """Close the connection, courteously."""
        await self.socket.close(code, reason)

    def cut(self) -> None:
        """Lose the link without a closing handshake."""
        self.socket.transport.abort()

    def stop_reading(self) -> None:
        """Leave what the agent sends in the kernel's buffers, until they are full."""
        self.socket.transport.pause_reading()

    # --- the connection --------------------------------------------------------------------------

    async def serve(self, answer: Callable[[Hello], Welcome | Rejected | None]) -> None:
        """Read until the connection ends."""
        try:
            await self.flush()
            async for message in self.socket:
                decoded = VERSION_1.decode_from_agent(message, MAX_MESSAGE_TO_COORDINATOR_BYTES)
                self.messages.append(decoded.frames)
                for frame in decoded.frames:
                    await self._take(frame, answer)
                if self.acknowledges or self.session.state is not State.OPEN:
                    await self.flush()
                self._changed.set()
        except ConnectionClosed:
            pass
        except ProtocolError as violation:
            self.violation = violation
            await self.socket.close(violation.close_code)
        finally:
            self.closed.set()
            self._changed.set()

    async def _take(
        self, frame: AgentFrame, answer: Callable[[Hello], Welcome | Rejected | None]
    ) -> None:
        event = self.session.receive(frame)
        self.frames.append(frame)
        self._untaken.append(frame)
        if isinstance(event, Chunk):
            self.data[event.job_id] += event.data
            self.session.consumed(event.job_id, len(event.data))
        elif isinstance(event, Hello):
            reply = answer(event)
            if isinstance(reply, Rejected):
                self.session.reject(reply)
            elif reply is not None:
                self._accept(reply, event)
                await self.flush()

    def _accept(self, reply: Welcome, hello: Hello) -> None:
        lost = self._lost
        if lost is None or hello.session_id is None:
            self.session.accept(reply)
            return
        streams = resumable(hello.live_jobs, lost.session.streams)
        self.session.accept(reply, streams)
        self.data = {job_id: lost.data[job_id] for job_id in streams}


class ScriptedCoordinator:
    """Listens on entry; `next_agent` gives connections in their order.

    Attributes:
        answer: what follows a `Hello`; None: nothing at all.
        greets: whether it speaks at all when somebody connects.
        subprotocol: what it picks; None: none.
        resumes: whether it goes on with the jobs of an agent's last connection.
        refusals: HTTP answers (status and headers) to the next upgrades, one each.
        upgrades: the headers of every upgrade request.
        agents: every connection so far.
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
        self.agents: list[AgentAtCoordinator] = []
        self.port = 0
        self._new_agents: asyncio.Queue[AgentAtCoordinator] = asyncio.Queue()
        self._server: Server | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}{CONNECT_PATH}"

    async def next_agent(self) -> AgentAtCoordinator:
        """The next connection that got past its upgrade."""
        return await self._new_agents.get()

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._handle,
            sock=_listener(self.port),
            process_request=self._process,
            select_subprotocol=self._select,
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
        violations = [agent.violation for agent in self.agents if agent.violation is not None]
        if error is None:
            assert not violations, f"the agent broke the protocol: {violations}"

    async def stop(self) -> None:
        """Vanish without a word."""
        assert self._server is not None
        for agent in self.agents:
            agent.cut()
        self._server.close()
        await self._server.wait_closed()

    async def _handle(self, connection: ServerConnection) -> None:
        lost = self.agents[-1] if self.resumes and self.agents else None
        agent = AgentAtCoordinator(connection, f"127.0.0.1:{self.port}", lost)
        self.agents.append(agent)
        self._new_agents.put_nowait(agent)
        if not self.sends_challenge:
            agent.session.to_send.clear()
        await agent.serve(self.answer)

    def _process(self, connection: ServerConnection, request: Request) -> Response | None:
        self.upgrades.append({name.lower(): value for name, value in request.headers.raw_items()})
        if not self.refusals:
            return None
        status, headers = self.refusals.popleft()
        response = connection.respond(HTTPStatus(status), "no\n")
        for name, value in headers.items():
            response.headers[name] = value
        return response

    def _select(
        self, connection: ServerConnection, offered: Sequence[Subprotocol]
    ) -> Subprotocol | None:
        return None if self.subprotocol is None else Subprotocol(self.subprotocol)


def _listener(port: int) -> socket.socket:
    # The protocol is named because asyncio sets TCP_NODELAY only on sockets that say it; without,
    # the second of two frames waits for the first one's delayed acknowledgement.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # So that an agent notices soon that nobody reads, whatever the machine's defaults are.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    listener.bind(("127.0.0.1", port))
    return listener


def _ends(frames: Iterable[AgentFrame], job_id: bytes) -> list[JobEnd]:
    return [f for f in frames if isinstance(f, JobResult | JobError) and f.job_id == job_id]
