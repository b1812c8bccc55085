"""The state machine of one connection, sans-I/O: frames in, frames to send and events out.

::

    agent        connecting ──Challenge──▶ greeting ──Welcome───▶ open
    coordinator  greeting ────Hello──────▶ deciding ──accept()──▶ open

A rejection leads from each state before `open` to `closed`.

`receive` processes one frame and returns it if the application has to act on it, otherwise None. Of
a `Chunk` it returns only the bytes that are new.
Frames to send are appended to `to_send`. A frame that the state does not allow raises
`ProtocolViolation`; the caller then closes the connection with 1002.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from msgspec.structs import replace

from provider_agent.protocol.auth import signed_bytes, verify_signature
from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    Cancel,
    Capabilities,
    Challenge,
    Chunk,
    CoordinatorFrame,
    Drain,
    Draining,
    Heartbeat,
    Hello,
    Job,
    JobError,
    JobResult,
    JobStarted,
    LiveJob,
    Rejected,
    Welcome,
)
from provider_agent.protocol.limits import MIN_MESSAGE_TO_COORDINATOR_BYTES, MIN_WINDOW_BYTES
from provider_agent.protocol.stream import ReceiveStream

_NO_STREAMS: Final[Mapping[bytes, ReceiveStream]] = MappingProxyType({})


class State(StrEnum):
    """The state of a connection."""

    CONNECTING = "connecting"
    GREETING = "greeting"
    DECIDING = "deciding"
    OPEN = "open"
    CLOSED = "closed"


class AgentSession:
    """The agent's side of one connection.

    Args:
        authority: the address that was dialed, in the form of `auth.canonical_authority`.
        public_key: the agent's identity.
        sign: returns the Ed25519 signature of the given bytes.
        agent_version: for the coordinator's logs.
        instance_id: changes with each start of the process.
        enrollment_code: the code that the operator received, or "".
        session_id: the session to resume, or None.
        live_jobs: the jobs of that session that the agent still holds.
    """

    def __init__(
        self,
        *,
        authority: str,
        public_key: bytes,
        sign: Callable[[bytes], bytes],
        agent_version: str,
        instance_id: str = "",
        enrollment_code: str = "",
        session_id: bytes | None = None,
        live_jobs: Iterable[LiveJob] = (),
    ) -> None:
        self.state = State.CONNECTING
        self.to_send: list[AgentFrame] = []
        self.welcome: Welcome | None = None
        self._authority = authority
        self._sign = sign
        self._public_key = public_key
        self._agent_version = agent_version
        self._instance_id = instance_id
        self._enrollment_code = enrollment_code
        self._session_id = session_id
        self._live_jobs = {job.job_id: job for job in live_jobs}

    def __repr__(self) -> str:
        return f"<AgentSession {self.state} to {self._authority}>"

    def receive(self, frame: CoordinatorFrame) -> CoordinatorFrame | None:
        """Process one frame of the coordinator.

        Returns:
            The frame, when the application has to act on it.

        Raises:
            ProtocolViolation: the state does not allow the frame.
        """
        match self.state, frame:
            case State.CONNECTING, Challenge():
                self.to_send.append(self._hello(frame.nonce))
                self.state = State.GREETING
                return None
            case State.GREETING, Welcome():
                self._check_welcome(frame)
                self.welcome = frame
                self.state = State.OPEN
                return frame
            case ((State.CONNECTING | State.GREETING), Rejected()):
                self.state = State.CLOSED
                return frame
            case State.OPEN, Job() | Cancel() | Ack() | Drain():
                return frame
        raise ProtocolViolation(f"{type(frame).__name__} while {self.state}")

    def _hello(self, nonce: bytes) -> Hello:
        return Hello(
            agent_version=self._agent_version,
            public_key=self._public_key,
            signature=self._sign(signed_bytes(self._authority, nonce)),
            enrollment_code=self._enrollment_code,
            instance_id=self._instance_id,
            session_id=self._session_id,
            live_jobs=list(self._live_jobs.values()),
        )

    def _check_welcome(self, welcome: Welcome) -> None:
        if welcome.window_bytes < MIN_WINDOW_BYTES:
            raise ProtocolViolation("a window below the protocol's minimum")
        if welcome.max_message_bytes < MIN_MESSAGE_TO_COORDINATOR_BYTES:
            raise ProtocolViolation("a message limit below the protocol's minimum")
        for job_id, offset in welcome.resumed.items():
            job = self._live_jobs.get(job_id)
            if job is None or not job.first_offset <= offset <= job.next_offset:
                raise ProtocolViolation("a resumed job or offset that was not offered")


class CoordinatorSession:
    """The coordinator's side of one connection.

    Args:
        nonce: 32 random bytes, fresh for this connection.
        name: the coordinator's name.
        authorities: the addresses (`host:port`) at which agents may dial this coordinator, from its
            configuration: a man in the middle controls the `Host` header.
    """

    def __init__(self, *, nonce: bytes, name: str, authorities: Iterable[str]) -> None:
        self.state = State.GREETING
        self.to_send: list[CoordinatorFrame] = [Challenge(nonce, name)]
        self.streams: dict[bytes, ReceiveStream] = {}
        self._nonce = nonce
        self._authorities = tuple(authorities)
        self._window = 0

    def __repr__(self) -> str:
        return f"<CoordinatorSession {self.state} jobs={len(self.streams)}>"

    def receive(self, frame: AgentFrame) -> AgentFrame | None:
        """Process one frame of the agent; a returned `Chunk` holds only new bytes.

        The signature of a returned `Hello` is verified; answer it with `accept` or `reject`. After
        a bad signature the result is None, `Rejected` is in `to_send` and the session is closed.

        Raises:
            ProtocolViolation: the state does not allow the frame.
        """
        match self.state, frame:
            case State.GREETING, Hello():
                return self._authenticate(frame)
            case State.OPEN, Capabilities() | Heartbeat() | Draining():
                return frame
            case State.OPEN, JobStarted():
                return self._job_started(frame)
            case State.OPEN, Chunk():
                return self._chunk(frame)
            case State.OPEN, JobResult() | JobError():
                return self._job_ended(frame)
        raise ProtocolViolation(f"{type(frame).__name__} while {self.state}")

    def _authenticate(self, hello: Hello) -> Hello | None:
        for authority in self._authorities:
            if verify_signature(hello.public_key, hello.signature, authority, self._nonce):
                self.state = State.DECIDING
                return hello
        self.reject(
            Rejected(
                "bad_signature",
                "The signature is invalid: the agent dialed an address that is not in this "
                "coordinator's list, or its key file is damaged.",
            )
        )
        return None

    def accept(
        self, welcome: Welcome, streams: Mapping[bytes, ReceiveStream] = _NO_STREAMS
    ) -> None:
        """Admit the agent whose `Hello` was returned.

        Args:
            welcome: its `resumed` is replaced by the offsets of `streams`.
            streams: the streams that continue the agent's detached session, from `resumable`.
        """
        if self.state is not State.DECIDING:
            raise RuntimeError(f"accept() while {self.state}")
        self.state = State.OPEN
        self._window = welcome.window_bytes
        self.streams = dict(streams)
        resumed = {job_id: stream.received for job_id, stream in streams.items()}
        self.to_send.append(replace(welcome, resumed=resumed))
        for job_id, stream in streams.items():
            offset = stream.resume(self._window)
            if offset:
                self.to_send.append(Ack(job_id, offset))

    def reject(self, rejected: Rejected) -> None:
        """Reject an agent not yet admitted; close the connection after `to_send` is sent."""
        if self.state not in (State.GREETING, State.DECIDING):
            raise RuntimeError(f"reject() while {self.state}")
        self.state = State.CLOSED
        self.to_send.append(rejected)

    def start_job(self, job: Job) -> None:
        """Send a job to the agent."""
        if self.state is not State.OPEN or job.job_id in self.streams:
            raise RuntimeError(f"start_job() while {self.state}, or with a job id in use")
        self.streams[job.job_id] = ReceiveStream(self._window)
        self.to_send.append(job)

    def cancel_job(self, job_id: bytes, reason: str) -> None:
        """Ask the agent to stop a job, which still ends with an end frame."""
        if job_id in self.streams:
            self.to_send.append(Cancel(job_id, reason))

    def consumed(self, job_id: bytes, count: int) -> None:
        """`count` more bytes of a response were passed on, or discarded after a cancel."""
        stream = self.streams.get(job_id)
        offset = stream.consume(count) if stream is not None else None
        if offset is not None:
            self.to_send.append(Ack(job_id, offset))

    def _job_started(self, frame: JobStarted) -> JobStarted | None:
        stream = self.streams.get(frame.job_id)
        if stream is None:
            return None
        if stream.started:
            raise ProtocolViolation("a job that started twice")
        stream.started = True
        return frame

    def _chunk(self, frame: Chunk) -> Chunk | None:
        stream = self.streams.get(frame.job_id)
        if stream is None:
            return None
        if not stream.started:
            raise ProtocolViolation("a chunk of a job that has not started")
        fresh = stream.receive(frame)
        if not fresh:
            return None
        if len(fresh) == len(frame.data):
            return frame
        return Chunk(frame.job_id, stream.received - len(fresh), fresh)

    def _job_ended(self, frame: JobResult | JobError) -> JobResult | JobError | None:
        stream = self.streams.pop(frame.job_id, None)
        if stream is not None:
            stream.check_end(frame)
        self.to_send.append(Ack(frame.job_id, frame.total_bytes, final=True))
        return frame if stream is not None else None


def resumable(
    live_jobs: Iterable[LiveJob], streams: Mapping[bytes, ReceiveStream]
) -> dict[bytes, ReceiveStream]:
    """The coordinator's streams that can continue: the agent holds the next byte of each."""
    return {
        job.job_id: stream
        for job in live_jobs
        if (stream := streams.get(job.job_id)) is not None
        and job.first_offset <= stream.received <= job.next_offset
    }
