"""The kit as an agent, which dials the coordinator under test."""

import uuid
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from provider_agent.conformance.case import NotHeld, require
from provider_agent.conformance.peer import ANSWER_S, MAX_RECEIVED_BYTES, SILENCE_S, Peer
from provider_agent.protocol.auth import signed_bytes
from provider_agent.protocol.codec import VERSION_1, Decoded
from provider_agent.protocol.ed25519 import PrivateKey
from provider_agent.protocol.frames import (
    Ack,
    AgentLimits,
    Capabilities,
    Challenge,
    Chunk,
    CoordinatorFrame,
    Hello,
    JobError,
    JobHeader,
    JobResult,
    JobStarted,
    LiveJob,
    ModelOffer,
    Rejected,
    RequestChunk,
    RoutingStatus,
    Usage,
    Welcome,
)
from provider_agent.protocol.limits import SUBPROTOCOL

VERSION: Final = "conformance"
EVENT_STREAM: Final = "text/event-stream"
BACKEND: Final = "conformance"

Decode = Callable[[bytes | str, int], Decoded[CoordinatorFrame]]


class Process(Struct, frozen=True):
    """One process of an agent, which may connect several times.

    Attributes:
        key: the process's key.
        instance_id: the id of the process in `Hello`.
        model_id: the model that the process offers; `new_process` makes a unique one by default.
    """

    key: PrivateKey
    instance_id: str
    model_id: str


def new_process(key: PrivateKey | None = None, model_id: str = "") -> Process:
    """A process with a new instance id, and with a new key and model unless they are given."""
    name = model_id or f"conformance-{uuid.uuid4().hex[:12]}"
    return Process(key or PrivateKey.generate(), uuid.uuid4().hex, name)


def offer(model_id: str, max_concurrent: int = 16) -> ModelOffer:
    """An offer of a model for the operations `chat` and `messages`."""
    return ModelOffer(
        model_id=model_id,
        formats=["openai", "anthropic"],
        operations=["chat", "messages"],
        context_window=None,
        native=True,
        backend_kind="echo",
        max_concurrent=max_concurrent,
    )


async def dial(
    url: str,
    answer_s: float,
    *,
    host: str | None = None,
    port: int | None = None,
    subprotocol: str = SUBPROTOCOL,
) -> ClientConnection:
    """Open a WebSocket to a coordinator within `answer_s` seconds.

    The connection goes to `host` and `port` if they are given, and TLS expects `host`; the `Host`
    header is from `url`. With an empty `subprotocol`, none is offered.

    Raises:
        OSError, TimeoutError, websockets.exceptions.InvalidHandshake: it does not open.
    """
    address: dict[str, Any] = {} if host is None else {"host": host, "port": port}
    if host is not None and url.startswith("wss:"):
        address["server_hostname"] = host
    return await connect(
        url,
        subprotocols=[Subprotocol(subprotocol)] if subprotocol else None,
        compression=None,
        proxy=None,
        max_size=MAX_RECEIVED_BYTES,
        open_timeout=answer_s,
        close_timeout=1,
        ping_interval=None,
        **address,
    )


class AgentPeer(Peer):
    """The kit's end of a connection to the coordinator under test.

    Args:
        socket: the open WebSocket.
        process: the agent process that the kit plays.
        answer_s: see `Peer`.
        decode: decodes a message of the coordinator; by default as in version 1.

    Attributes:
        process: see above.
    """

    def __init__(
        self,
        socket: ClientConnection,
        process: Process,
        answer_s: float = ANSWER_S,
        decode: Decode = VERSION_1.decode_from_coordinator,
    ) -> None:
        super().__init__(socket, decode, answer_s)
        self.process = process
        self._welcome: Welcome | None = None

    @property
    def welcome(self) -> Welcome:
        """The coordinator's answer to `Hello`."""
        if self._welcome is None:
            raise RuntimeError("not welcomed yet")
        return self._welcome

    def signed_bytes(self, authority: str, nonce: bytes) -> bytes:
        """What `Hello` signs."""
        return signed_bytes(authority, nonce)

    async def hello(
        self,
        authority: str,
        *,
        key: PrivateKey | None = None,
        nonce: bytes | None = None,
        enrollment_code: str = "",
        session_id: bytes | None = None,
        live_jobs: list[LiveJob] | None = None,
        replace: bool = False,
        features: list[str] | None = None,
    ) -> Hello:
        """Wait for `Challenge` and return a signed `Hello`.

        Args:
            authority: the address to sign.
            key: the key that signs; by default that of the process.
            nonce: the nonce to sign; by default that of `Challenge`.
            enrollment_code: see `Hello`.
            session_id: see `Hello`.
            live_jobs: see `Hello`.
            replace: see `Hello`.
            features: see `Hello`.
        """
        challenge = await self.expect(Challenge)
        signed = self.signed_bytes(authority, nonce or challenge.nonce)
        return Hello(
            agent_version=VERSION,
            public_key=self.process.key.public_key,
            signature=(key or self.process.key).sign(signed),
            enrollment_code=enrollment_code,
            instance_id=self.process.instance_id,
            session_id=session_id,
            live_jobs=live_jobs or [],
            features=features or [],
            replace=replace,
        )

    async def expect_welcome(self) -> Welcome:
        """Wait for `Welcome`; raises `NotHeld` if the answer is `Rejected`."""
        answer = await self.expect_answer()
        if isinstance(answer, Rejected):
            raise NotHeld(f"rejected with {answer.code}: {answer.message}")
        self._welcome = answer
        return answer

    async def expect_answer(self) -> Welcome | Rejected:
        """Wait for the answer to `Hello`, up to twice `answer_s`.

        Twice, because the coordinator may first ping an older connection with the same key, and
        wait for the pong.
        """
        answer = await self.next(
            lambda frame: isinstance(frame, Welcome | Rejected),
            "Welcome or Rejected",
            2 * self.answer_s,
        )
        assert isinstance(answer, Welcome | Rejected)  # noqa: S101 - for the type checker
        return answer

    async def advertise(self, *offers: ModelOffer, revision: int = 1) -> None:
        """Send `Capabilities`, and wait for the coordinator's `RoutingStatus`.

        The protocol only recommends this answer: without it, the method returns after `SILENCE_S`.
        """
        await self.send(Capabilities(revision, list(offers), AgentLimits(16)))
        await self.settle()
        try:
            await self.expect(
                RoutingStatus, within_s=SILENCE_S, where=lambda status: status.revision == revision
            )
        except NotHeld:
            require(not self.closed.is_set(), "closed after Capabilities")

    async def expect_final_ack(self, job_id: bytes, total_bytes: int) -> Ack:
        """Wait for the final acknowledgement; raises `NotHeld` if its offset is wrong."""
        ack = await self.expect(Ack, job_id, where=lambda ack: ack.final)
        require(ack.offset == total_bytes, f"a final Ack of {ack.offset}, not {total_bytes}")
        return ack

    async def expect_request(self, header: JobHeader) -> bytes:
        """Wait for the whole request of a job, and check its pieces."""
        body = bytearray()
        while len(body) < header.request_bytes:
            chunk = await self.expect(RequestChunk, header.job_id)
            observed = f"a piece at {chunk.offset} after {len(body)} bytes"
            require(chunk.offset == len(body) and bool(chunk.data), observed)
            body += chunk.data
        require(len(body) == header.request_bytes, f"{len(body)} of {header.request_bytes} bytes")
        return bytes(body)


def started(job_id: bytes, content_type: str = EVENT_STREAM) -> JobStarted:
    """The frame that starts a successful response."""
    return JobStarted(job_id, 200, content_type, BACKEND)


def chunk(job_id: bytes, offset: int, data: bytes) -> Chunk:
    """A `Chunk` of a response."""
    return Chunk(job_id, offset, data)


def result(job_id: bytes, total_bytes: int) -> JobResult:
    """The end of a successful job."""
    return JobResult(job_id, total_bytes, Usage(3, 5), BACKEND, 10, 5)


def error(job_id: bytes, total_bytes: int, code: str = "backend_error") -> JobError:
    """The end of a failed job."""
    return JobError(job_id, total_bytes, code, "conformance", backend_id=BACKEND)
