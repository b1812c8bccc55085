"""A simulated agent of `bench.cluster_fleet`: the real protocol, with timed responses.

It dials again after a lost link, as agents do, and resumes the jobs that the coordinator names. A
thousand of them fit into one process.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from provider_agent.protocol.agent_protocol import AgentProtocol
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.ed25519 import PrivateKey
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    AgentLimits,
    BackendLoad,
    Cancel,
    Capabilities,
    CoordinatorFrame,
    Heartbeat,
    JobEnd,
    JobError,
    JobHeader,
    JobResult,
    JobStarted,
    ModelLoad,
    ModelOffer,
    RequestChunk,
    Usage,
    Welcome,
)
from provider_agent.protocol.limits import MAX_MESSAGE_TO_AGENT_BYTES, SUBPROTOCOL
from provider_agent.protocol.request import RequestBuffer
from provider_agent.protocol.send_stream import SendStream

EVENT: Final = b'data: {"choices":[{"index":0,"delta":{"content":"'.ljust(240, b"x") + b'"}}]}\n\n'

MAX_CONCURRENT: Final = 4
FIRST_WAIT_S: Final = 1.0
"""The longest wait before the first attempt after a lost link, as `agent.link.backoff` has it."""
NEXT_WAIT_S: Final = 2.0
"""The longest wait before each later attempt."""
OPEN_TIMEOUT_S: Final = 10.0

_BACKEND: Final = "simulated"


class Response(Struct, frozen=True):
    """What the agent answers every job with.

    Attributes:
        events: the number of events.
        interval_s: the time from one to the next.
    """

    events: int
    interval_s: float

    @property
    def body(self) -> bytes:
        """The whole response."""
        return EVENT * self.events


class SimulatedAgent:
    """One agent; `run` connects it.

    Args:
        models: the ids of its models.
        choose_port: returns the loopback port of a coordinator, as a load balancer would.
        dialing: limits how many agents dial at once.
        response: the answer to every job.
        jitter: returns a random number between two others.

    Attributes:
        connected: whether the current connection has a `Welcome`.
        welcomes: how often the agent has connected.
        jobs: the responses that the coordinator has not acknowledged to the end.
    """

    def __init__(
        self,
        models: Sequence[str],
        choose_port: Callable[[], int],
        dialing: asyncio.Semaphore,
        response: Response,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.connected = False
        self.welcomes = 0
        self.jobs: dict[bytes, SendStream] = {}
        self._models = models
        self._choose_port = choose_port
        self._dialing = dialing
        self._response = response
        self._jitter = jitter
        self._key = PrivateKey.generate()
        self._public_key = self._key.public_key
        self._instance_id = self._public_key.hex()[:16]
        self._requests: dict[bytes, RequestBuffer] = {}
        self._answers: dict[bytes, asyncio.Task[None]] = {}
        self._session_id: bytes | None = None
        self._socket: ClientConnection | None = None
        self._protocol = self._new_protocol("")

    def __repr__(self) -> str:
        state = "connected" if self.connected else "disconnected"
        return f"<SimulatedAgent {self._instance_id} {state} jobs={len(self.jobs)}>"

    def _new_protocol(self, authority: str) -> AgentProtocol:
        return AgentProtocol(
            authority=authority,
            public_key=self._public_key,
            sign=self._key.sign,
            agent_version="simulated",
            instance_id=self._instance_id,
            session_id=self._session_id,
            live_jobs=[
                replace(job.live_job(), request_offset=self._requests[job_id].size)
                for job_id, job in self.jobs.items()
                if self._requests[job_id].complete
            ],
        )

    async def run(self) -> None:
        """Stay connected until the task is cancelled, which closes the connection."""
        try:
            while True:
                with suppress(OSError, InvalidHandshake, ConnectionClosed):
                    await self._connect()
                longest_s = FIRST_WAIT_S if self.connected else NEXT_WAIT_S
                self.connected, self._socket = False, None
                await asyncio.sleep(self._jitter(0, longest_s))
        finally:
            for answer in self._answers.values():
                answer.cancel()

    def lose_link(self) -> None:
        """Abort the connection, as a network failure would."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def _connect(self) -> None:
        """Connect, and stay connected until the connection is lost."""
        async with self._dialing:
            authority = f"127.0.0.1:{self._choose_port()}"
            socket = await connect(
                f"ws://{authority}/provider/connect",
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,
                max_size=MAX_MESSAGE_TO_AGENT_BYTES,
                proxy=None,
                open_timeout=OPEN_TIMEOUT_S,
                ping_interval=None,  # heartbeats suffice
            )
            self._protocol, self._socket = self._new_protocol(authority), socket
            try:
                async with asyncio.timeout(OPEN_TIMEOUT_S):
                    while (welcome := self._protocol.welcome) is None:
                        await self._receive(socket)
            except BaseException:
                await socket.close()
                raise
        heartbeats = asyncio.create_task(self._send_heartbeats(welcome.heartbeat_ms / 1000))
        try:
            while True:
                await self._receive(socket)
        finally:
            heartbeats.cancel()
            await socket.close()

    async def _receive(self, socket: ClientConnection) -> None:
        message = await socket.recv()
        for frame in VERSION_1.decode_from_coordinator(message, MAX_MESSAGE_TO_AGENT_BYTES).frames:
            if (received := self._protocol.receive(frame)) is not None:
                await self._on_frame(received)
        if self._protocol.to_send:
            await self._send(self._protocol.to_send)
            self._protocol.to_send.clear()

    async def _on_frame(self, frame: CoordinatorFrame) -> None:
        match frame:
            case Welcome():
                await self._on_welcome(frame)
            case JobHeader():
                self._requests[frame.job_id] = RequestBuffer(frame.request_bytes)
                assert self._protocol.welcome is not None
                window = self._protocol.welcome.window_bytes
                self.jobs[frame.job_id] = SendStream(frame.job_id, window)
                self._start_if_complete(frame.job_id)
            case RequestChunk() if frame.job_id in self._requests:
                self._requests[frame.job_id].receive(frame)
                self._start_if_complete(frame.job_id)
            case Ack() if (job := self.jobs.get(frame.job_id)) is not None:
                job.acknowledge(frame.offset, final=frame.final)
                if job.done:
                    self._drop(frame.job_id)
                else:
                    await self._send_ready(job)
            case Cancel() if (job := self.jobs.get(frame.job_id)) is not None:
                await self._finish(job, _cancelled(job))

    async def _on_welcome(self, welcome: Welcome) -> None:
        self.connected, self._session_id = True, welcome.session_id
        self.welcomes += 1
        resumed = {job.job_id: job for job in welcome.resumed if not job.ended}
        await self._send([self._capabilities(), self._heartbeat()])
        for job_id, job in list(self.jobs.items()):
            if job_id in resumed:
                job.rewind(resumed[job_id].offset)
                await self._send_ready(job)
            else:
                self._drop(job_id)

    def _drop(self, job_id: bytes) -> None:
        del self.jobs[job_id], self._requests[job_id]
        if (answer := self._answers.pop(job_id, None)) is not None:
            answer.cancel()

    def _start_if_complete(self, job_id: bytes) -> None:
        if self._requests[job_id].complete and job_id not in self._answers:
            self._answers[job_id] = asyncio.create_task(self._answer(self.jobs[job_id]))

    async def _answer(self, job: SendStream) -> None:
        job.start(JobStarted(job.job_id, 200, "text/event-stream", _BACKEND))
        for _ in range(self._response.events):
            job.write(EVENT)
            await self._send_ready(job)
            await asyncio.sleep(self._response.interval_s)
        await self._finish(job, _result(job))

    async def _finish(self, job: SendStream, end: JobEnd) -> None:
        job.finish(end)
        await self._send_ready(job)

    async def _send_ready(self, job: SendStream) -> None:
        while self.connected and (frames := job.next_frames()):
            await self._send(frames)

    async def _send(self, frames: Sequence[AgentFrame]) -> None:
        """Send frames; if the link is lost, `rewind` sends them again."""
        if self._socket is not None:
            with suppress(ConnectionClosed):
                await self._socket.send(VERSION_1.encode(list(frames)))

    async def _send_heartbeats(self, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            await self._send([self._heartbeat()])

    def _capabilities(self) -> Capabilities:
        offers = [
            ModelOffer(
                model_id=model,
                formats=["openai", "anthropic"],
                operations=["chat", "completions", "messages"],
                context_window=32_768,
                native=True,
                backend_kind=_BACKEND,
                max_concurrent=MAX_CONCURRENT,
            )
            for model in self._models
        ]
        return Capabilities(1, offers, AgentLimits(MAX_CONCURRENT))

    def _heartbeat(self) -> Heartbeat:
        jobs = len(self.jobs)
        loads = [ModelLoad(model, "loaded", 0, 0, 0, 0.0) for model in self._models]
        backend = BackendLoad(_BACKEND, True, jobs, MAX_CONCURRENT, jobs, 0, 0.0, loads)
        return Heartbeat(jobs, 0, MAX_CONCURRENT, 50.0, 20.0, 30.0, 0.0, [backend])


def _result(job: SendStream) -> JobResult:
    return JobResult(job.job_id, job.written, Usage(10, job.written // len(EVENT)), _BACKEND, 1, 1)


def _cancelled(job: SendStream) -> JobError:
    return JobError(job.job_id, job.written, ErrorCode.CANCELLED, "The job was cancelled.")
