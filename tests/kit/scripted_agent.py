"""An agent that a test controls: the real protocol, without backends.

The test receives each job with `next_job` and sends its response step by step, or passes a function
`answer` that runs for every job. Between `lose_link` and `reconnect`, a test can still write output
of a job; the agent sends it over the next link.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from provider_agent.protocol.agent_protocol import AgentProtocol
from provider_agent.protocol.auth import canonical_authority
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    AgentLimits,
    Cancel,
    Capabilities,
    CoordinatorFrame,
    Drain,
    Draining,
    JobHeader,
    LiveJob,
    ModelOffer,
    Rejected,
    RequestChunk,
    Welcome,
)
from provider_agent.protocol.job import Job, join_request
from provider_agent.protocol.limits import MAX_MESSAGE_TO_AGENT_BYTES, SUBPROTOCOL
from provider_agent.protocol.request import RequestBuffer
from provider_agent.protocol.state import State
from tests.kit.scripted_job import ScriptedJob


def offer(
    model_id: str = "tiny",
    formats: Sequence[str] = ("openai", "anthropic"),
    operations: Sequence[str] = ("chat", "messages"),
    max_concurrent: int = 8,
) -> ModelOffer:
    return ModelOffer(
        model_id=model_id,
        formats=list(formats),
        operations=list(operations),
        context_window=4096,
        native=True,
        backend_kind="scripted",
        max_concurrent=max_concurrent,
    )


class ScriptedAgent:
    """An agent that connects when its context is entered.

    Args:
        connect_url: the coordinator's address for agents.
        key: the agent's key; by default a new one.
        models: the offers in `Capabilities`; by default one offer of the model `tiny`.
        max_concurrent: the limit in `Capabilities`.
        enrollment_code: the code in `Hello`.
        instance_id: the id in `Hello`.
        replace: the flag in `Hello`.
        authority: the address to sign; by default the dialed address.
        answer: called for every job; if None, the test receives jobs with `next_job`.
        features: the optional features in `Hello`.

    Attributes:
        protocol: the state machine of the current connection.
        rejected: the coordinator's `Rejected`; None if it did not reject the agent.
        drain: the last `Drain`; None if none was received.
        acks: all received acknowledgements, of unknown jobs too.
        closed: set when the current connection has ended.
        link_lost: True between `lose_link` and `reconnect`.
        jobs: every received job, by id.
    """

    def __init__(
        self,
        connect_url: str,
        *,
        key: Ed25519PrivateKey | None = None,
        models: Sequence[ModelOffer] | None = None,
        max_concurrent: int = 8,
        enrollment_code: str = "",
        instance_id: str = "",
        replace: bool = False,
        authority: str | None = None,
        answer: Callable[[ScriptedJob], Awaitable[None]] | None = None,
        features: Sequence[str] = (),
    ) -> None:
        self.key = key or Ed25519PrivateKey.generate()
        self.public_key = self.key.public_key().public_bytes_raw()
        self.authority = authority or _authority_of(connect_url)
        self.enrollment_code = enrollment_code
        self.instance_id = instance_id
        self.replace = replace
        self.features = features
        self.protocol = self._new_protocol(None, ())
        self.models = [offer()] if models is None else list(models)
        self.max_concurrent = max_concurrent
        self.rejected: Rejected | None = None
        self.drain: Drain | None = None
        self.acks: list[Ack] = []
        self.closed = asyncio.Event()
        self.link_lost = False
        self.jobs: dict[bytes, ScriptedJob] = {}
        self._incomplete: dict[bytes, tuple[JobHeader, RequestBuffer]] = {}
        self._url = connect_url
        self._answer = answer
        self._answers: set[asyncio.Task[None]] = set()
        self._new_jobs: asyncio.Queue[ScriptedJob] = asyncio.Queue()
        self._socket: ClientConnection | None = None
        self._stack = AsyncExitStack()

    @property
    def socket(self) -> ClientConnection:
        assert self._socket is not None
        return self._socket

    async def __aenter__(self) -> Self:
        await self._connect()
        return self

    def _new_protocol(
        self, session_id: bytes | None, live_jobs: Iterable[LiveJob]
    ) -> AgentProtocol:
        return AgentProtocol(
            authority=self.authority,
            public_key=self.public_key,
            sign=self.key.sign,
            agent_version="scripted",
            instance_id=self.instance_id,
            replace=self.replace,
            enrollment_code=self.enrollment_code,
            session_id=session_id,
            live_jobs=live_jobs,
            features=self.features,
        )

    async def _connect(self) -> None:
        self.closed = asyncio.Event()
        self._socket = await self._stack.enter_async_context(
            connect(
                self._url,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,
                max_size=MAX_MESSAGE_TO_AGENT_BYTES,
                proxy=None,
                open_timeout=None,  # a slow machine must not fail a test
                ping_interval=None,  # a ping would count as activity of a silent agent
            )
        )
        await self._handshake()
        self.link_lost = False
        if self.protocol.state is State.OPEN:
            await self.advertise(*self.models)
        reader = asyncio.create_task(self._read(self.socket, self.closed), name="scripted agent")
        self._stack.push_async_callback(_cancel, reader)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()
        for answer in list(self._answers):
            await _cancel(answer)

    async def _handshake(self) -> None:
        while self.protocol.state in (State.AWAITING_CHALLENGE, State.AWAITING_WELCOME):
            for frame in await self._receive(self.socket):
                match frame:
                    case Rejected():
                        self.rejected = frame
                    case Welcome():
                        self._resume(frame)
                    case _:
                        self._on_frame(frame)
            if self.protocol.to_send:
                await self.send(*self.protocol.to_send)
                self.protocol.to_send.clear()

    def _resume(self, welcome: Welcome) -> None:
        offsets = {job.job_id: job.offset for job in welcome.resumed if not job.ended}
        for job_id, job in self.jobs.items():
            if job_id not in offsets:
                job.dropped = True
            elif not job.stream.done:
                job.stream.rewind(offsets[job_id])

    async def _receive(self, socket: ClientConnection) -> list[CoordinatorFrame]:
        message = await socket.recv()
        if socket is not self._socket:
            return []  # received over an older link that is still open
        decoded = VERSION_1.decode_from_coordinator(message, MAX_MESSAGE_TO_AGENT_BYTES)
        return [frame for frame in map(self.protocol.receive, decoded.frames) if frame is not None]

    async def _read(self, socket: ClientConnection, closed: asyncio.Event) -> None:
        try:
            while True:
                for frame in await self._receive(socket):
                    self._on_frame(frame)
        except ConnectionClosed:
            closed.set()

    def _on_frame(self, frame: CoordinatorFrame) -> None:
        if isinstance(frame, Ack):
            self.acks.append(frame)
        match frame:
            case JobHeader(request_bytes=0):
                self._on_job(join_request(frame, b""))
            case JobHeader():
                self._incomplete[frame.job_id] = frame, RequestBuffer(frame.request_bytes)
            case RequestChunk() if frame.job_id in self._incomplete:
                header, request = self._incomplete[frame.job_id]
                request.receive(frame)
                if request.complete:
                    del self._incomplete[frame.job_id]
                    self._on_job(join_request(header, request.take()))
            case Cancel() if frame.job_id in self.jobs:
                self.jobs[frame.job_id].cancelled.set()
            case Ack() if frame.job_id in self.jobs:
                job = self.jobs[frame.job_id]
                job.stream.acknowledge(frame.offset, final=frame.final)
                job.window_changed.set()
                if frame.final:
                    job.done.set()
            case Drain():
                self.drain = frame

    def _on_job(self, frame: Job) -> None:
        assert self.protocol.welcome is not None
        job = ScriptedJob(self, frame, self.protocol.welcome.window_bytes)
        self.jobs[frame.job_id] = job
        if self._answer is None:
            self._new_jobs.put_nowait(job)
            return

        async def run(answer: Callable[[ScriptedJob], Awaitable[None]]) -> None:
            await answer(job)

        task = asyncio.create_task(run(self._answer), name="scripted answer")
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def next_job(self) -> ScriptedJob:
        return await self._new_jobs.get()

    async def send(self, *frames: AgentFrame) -> None:
        await self.socket.send(VERSION_1.encode(list(frames)))

    async def send_raw(self, message: bytes | str) -> None:
        await self.socket.send(message)

    async def advertise(self, *models: ModelOffer) -> None:
        """Send `Capabilities`; return when the coordinator has processed the frame."""
        await self.send(Capabilities(1, list(models), AgentLimits(self.max_concurrent)))
        await self.settle()

    async def start_draining(self) -> None:
        """Send `Draining`; return when the coordinator has processed the frame."""
        await self.send(Draining(60_000))
        await self.settle()

    async def settle(self) -> None:
        """Send a ping; its pong arrives after the coordinator has processed all earlier frames."""
        await (await self.socket.ping())

    def cut(self) -> None:
        """Abort the connection without a closing handshake."""
        self.socket.transport.abort()

    async def lose_link(self) -> None:
        """Abort the connection and keep the jobs for `reconnect`."""
        self.link_lost = True
        self.cut()
        await self.closed.wait()
        for job in self.jobs.values():
            job.window_changed.set()

    async def reconnect(
        self,
        *,
        resume: bool = True,
        live_jobs: Iterable[LiveJob] | None = None,
        connect_url: str | None = None,
    ) -> None:
        """Connect again. Jobs that `Welcome` resumes continue; the other jobs are dropped.

        Args:
            resume: whether to resume the session; otherwise the agent starts a new session.
            live_jobs: the jobs in `Hello`. By default its live jobs if it resumes the session, and
                none otherwise.
            connect_url: the address of another coordinator; by default the same one is dialed.
        """
        self.link_lost = True  # no job may write before `Welcome`
        if connect_url is not None:
            self._url, self.authority = connect_url, _authority_of(connect_url)
        welcome = self.protocol.welcome
        assert welcome is not None
        if live_jobs is None:
            live = [job for job in self.jobs.values() if not (job.stream.done or job.dropped)]
            live_jobs = [job.live_job() for job in live] if resume else []
        self.protocol = self._new_protocol(welcome.session_id if resume else None, live_jobs)
        await self._connect()
        for job in list(self.jobs.values()):
            job.window_changed.set()
            await job.send_ready()


def _authority_of(connect_url: str) -> str:
    parts = urlsplit(connect_url)
    return canonical_authority(parts.scheme, parts.hostname or "", parts.port)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
