"""The kit as a coordinator, which the agent under test dials."""

import asyncio
import json
import secrets
import uuid
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Final

from msgspec import Struct
from websockets.asyncio.server import ServerConnection

from provider_agent.conformance.case import NotHeld, NotTested, require
from provider_agent.conformance.peer import ANSWER_S, Frame, Peer
from provider_agent.protocol.auth import verify_signature
from provider_agent.protocol.codec import VERSION_1, Decoded
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    Cancel,
    Capabilities,
    Challenge,
    Chunk,
    Hello,
    JobEnd,
    JobError,
    JobHeader,
    JobResult,
    JobStarted,
    RequestChunk,
    ResumedJob,
    Welcome,
)
from provider_agent.protocol.limits import KIB, MIN_MESSAGE_TO_COORDINATOR_BYTES

WINDOW_BYTES: Final = 32 * KIB
"""Small, so that a short response of any model fills it."""

LONG_WORDS: Final = 600

Decode = Callable[[bytes | str, int], Decoded[AgentFrame]]

HEARTBEAT_MS: Final = 500
RESUME_MS: Final = 60_000
DEADLINE_MS: Final = 120_000


def new_welcome(
    *,
    session_id: bytes = b"",
    heartbeat_ms: int = HEARTBEAT_MS,
    resume_ms: int = RESUME_MS,
    window_bytes: int = WINDOW_BYTES,
    max_message_bytes: int = MIN_MESSAGE_TO_COORDINATOR_BYTES,
    resumed: Iterable[ResumedJob] = (),
    features: Iterable[str] = (),
) -> Welcome:
    """A valid `Welcome` unless the arguments make it invalid."""
    return Welcome(
        provider_id="conformance",
        session_id=session_id or uuid.uuid4().bytes,
        heartbeat_ms=heartbeat_ms,
        resume_ms=resume_ms,
        window_bytes=window_bytes,
        max_message_bytes=max_message_bytes,
        resumed=list(resumed),
        features=list(features),
    )


class SentJob(Struct, frozen=True):
    """A job that the kit, as a coordinator, has sent.

    Attributes:
        header: the job's header.
        request: the job's whole request.
    """

    header: JobHeader
    request: bytes

    @property
    def job_id(self) -> bytes:
        """The job's id."""
        return self.header.job_id

    def piece(self, offset: int, end: int) -> RequestChunk:
        """A piece of the job's request."""
        return RequestChunk(self.job_id, offset, self.request[offset:end])


def new_job(model_id: str, *, words: int = 3, deadline_ms: int = DEADLINE_MS) -> SentJob:
    """A chat job whose prompt has this many words; the echo backend repeats them."""
    text = " ".join(f"w{number}" for number in range(words))
    request = {
        "model": model_id,
        "messages": [{"role": "user", "content": text}],
        "stream": True,
    }
    return new_raw_job(model_id, json.dumps(request).encode(), deadline_ms=deadline_ms)


def new_raw_job(
    model_id: str,
    request: bytes,
    *,
    wire_format: str = "openai",
    operation: str = "chat",
    deadline_ms: int = DEADLINE_MS,
) -> SentJob:
    """A job with any request."""
    header = JobHeader(
        job_id=uuid.uuid4().bytes,
        model_id=model_id,
        format=wire_format,
        request_bytes=len(request),
        deadline_ms=deadline_ms,
        operation=operation,
    )
    return SentJob(header, request)


class CoordinatorPeer(Peer):
    """The kit's end of a connection from the agent under test.

    Args:
        socket: the open WebSocket.
        authorities: the addresses (`host:port`) that the agent may sign.
        answer_s: see `Peer`.

        decode: decodes a message of the agent; by default as in version 1.

    Attributes:
        nonce: the nonce of `Challenge`, which the agent must sign.
        heartbeat_ms: the interval of the agent's heartbeats.
        heartbeats: how many of them show the interval.
        long_words: words in a prompt whose response by the echo backend is long: in version 1, it
            fills the window several times.
    """

    heartbeat_ms = HEARTBEAT_MS
    heartbeats = 4
    long_words = LONG_WORDS

    def __init__(
        self,
        socket: ServerConnection,
        authorities: Iterable[str],
        answer_s: float = ANSWER_S,
        decode: Decode = VERSION_1.decode_from_agent,
    ) -> None:
        super().__init__(socket, decode, answer_s)
        self.nonce = secrets.token_bytes(32)
        self._authorities = tuple(authorities)
        self._hello: Hello | None = None
        self._capabilities: Capabilities | None = None
        self._welcome: Welcome | None = None
        self._unended: dict[bytes, SentJob] = {}

    @property
    def hello(self) -> Hello:
        """The agent's answer to `Challenge`."""
        if self._hello is None:
            raise RuntimeError("no Hello yet")
        return self._hello

    @property
    def capabilities(self) -> Capabilities:
        """The agent's offers at the start of the connection."""
        if self._capabilities is None:
            raise RuntimeError("not admitted yet")
        return self._capabilities

    @property
    def admitted(self) -> bool:
        """Whether the agent has sent its first `Capabilities`."""
        return self._capabilities is not None

    @property
    def welcome(self) -> Welcome:
        """The `Welcome` that the kit sent."""
        if self._welcome is None:
            raise RuntimeError("not welcomed yet")
        return self._welcome

    @property
    def window(self) -> int:
        """The window of each response."""
        return self.welcome.window_bytes

    @property
    def model_id(self) -> str:
        """An offered model for chat completions.

        Raises:
            NotTested: none is offered.
        """
        for offer in self.capabilities.models:
            if "openai" in offer.formats and "chat" in offer.operations:
                return offer.model_id
        raise NotTested("the agent offers no model for chat completions")

    # --- the handshake -----------------------------------------------------------------

    async def authenticate(self, *, features: Iterable[str] = ()) -> Hello:
        """Send `Challenge`, and return the agent's `Hello` with a verified signature."""
        await self.send(Challenge(self.nonce, "conformance", list(features)))
        hello = await self.expect(Hello)
        valid = any(
            verify_signature(hello.public_key, hello.signature, authority, self.nonce)
            for authority in self._authorities
        )
        observed = f"the signature of Hello is not one over {' or '.join(self._authorities)}"
        require(valid, observed)
        self._hello = hello
        return hello

    async def admit(self, welcome: Welcome | None = None, *further: Frame) -> None:
        """Send `Welcome` and further frames in one message; wait for `Capabilities`."""
        self._welcome = welcome or new_welcome()
        await self.send(self._welcome, *further)
        self._capabilities = await self.expect(Capabilities)

    # --- jobs --------------------------------------------------------------------------

    async def send_job(self, job: SentJob) -> SentJob:
        """Send a job's header and its whole request."""
        self._unended[job.job_id] = job
        await self.send(job.header)
        for offset in range(0, len(job.request), 64 * KIB):
            await self.send(job.piece(offset, offset + 64 * KIB))
        return job

    async def send_header(self, job: SentJob) -> SentJob:
        """Send only a job's header."""
        self._unended[job.job_id] = job
        await self.send(job.header)
        return job

    def adopt(self, job: SentJob) -> None:
        """Register a job for `end_jobs` that was sent another way, or on an older connection."""
        self._unended[job.job_id] = job

    def data(self, job_id: bytes) -> bytes:
        """The bytes of a response that arrived on this connection.

        Raises:
            NotHeld: there is a gap or an overlap between two chunks.
        """
        chunks = self.received_of(Chunk, job_id)
        for chunk, following in pairwise(chunks):
            expected = chunk.offset + len(chunk.data)
            require(following.offset == expected, f"a Chunk at {following.offset}, not {expected}")
        return b"".join(chunk.data for chunk in chunks)

    async def expect_bytes(self, job: SentJob, count: int) -> bytes:
        """Wait for `count` bytes of a response.

        Raises:
            NotHeld: the response ends too early, has a gap or does not arrive in time.
        """
        while len(data := self.data(job.job_id)) < count:
            frame = await self.next(
                lambda frame: (
                    isinstance(frame, Chunk | JobResult | JobError) and frame.job_id == job.job_id
                ),
                "Chunk",
            )
            if isinstance(frame, JobError):
                raise NotHeld(f"the job failed with {frame.code}: {frame.message}")
            require(not isinstance(frame, JobResult), f"the response has only {len(data)} bytes")
        return data

    async def expect_end(
        self, job: SentJob, *, acknowledge: bool = True, within_s: float | None = None
    ) -> JobEnd:
        """Wait for the end of a job, and send the final `Ack`."""
        end = await self.next(
            lambda frame: isinstance(frame, JobResult | JobError) and frame.job_id == job.job_id,
            "end of the job",
            within_s,
        )
        assert isinstance(end, JobResult | JobError)  # noqa: S101 - for the type checker
        self._unended.pop(job.job_id, None)
        if acknowledge:
            await self.send(Ack(job.job_id, end.total_bytes, final=True))
        return end

    async def expect_error(self, job: SentJob, *codes: str) -> JobError:
        """Wait for the end of a job, which must be an error with one of the codes."""
        end = await self.expect_end(job)
        if not isinstance(end, JobError):
            raise NotHeld(f"the job succeeded; expected {' or '.join(codes)}")
        require(end.code in codes, f"ended with {end.code}; expected {' or '.join(codes)}")
        return end

    async def read_to_end(self, job: SentJob, offset: int = 0) -> JobResult:
        """Acknowledge all bytes of the response until the job has succeeded.

        Args:
            job: the job.
            offset: how many bytes have arrived on older connections.

        Raises:
            NotHeld: the job fails, or does not end in time.
        """
        for chunk in self.received_of(Chunk, job.job_id):
            offset = max(offset, chunk.offset + len(chunk.data))
        await self.send(Ack(job.job_id, offset))
        reader = asyncio.create_task(self._acknowledge(job, offset), name="conformance reader")
        try:
            end = await self.expect_end(job, within_s=4 * self.answer_s)
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        if isinstance(end, JobError):
            raise NotHeld(f"the job failed with {end.code}: {end.message}")
        return end

    async def _acknowledge(self, job: SentJob, offset: int) -> None:
        while True:
            chunk = await self.expect(Chunk, job.job_id, within_s=4 * self.answer_s)
            end = chunk.offset + len(chunk.data)
            if end > offset:
                offset = end
                await self.send(Ack(job.job_id, offset))

    async def run_job(self, words: int = 3) -> JobResult:
        """Run one job, which must succeed."""
        job = await self.send_job(new_job(self.model_id, words=words))
        await self.expect(JobStarted, job.job_id)
        return await self.read_to_end(job)

    async def end_jobs(self) -> None:
        """Cancel the jobs that the case left running."""
        for job in list(self._unended.values()):
            if self.closed.is_set():
                return
            await self.send(Cancel(job.job_id, "the case has ended"))
            await self.expect_end(job)
