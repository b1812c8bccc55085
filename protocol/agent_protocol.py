"""The agent's state machine of one connection, sans-I/O: frames in, frames to send out.

`receive` processes one frame and returns it if the application has to act on it, otherwise None.
Frames to send are appended to `to_send`. A frame that the state does not allow, and a `Welcome`
with values that the protocol forbids, raise `ProtocolViolation`; the caller then closes the
connection with 1002.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from provider_agent.protocol.auth import signed_bytes
from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    Cancel,
    Challenge,
    CoordinatorFrame,
    Drain,
    Hello,
    JobHeader,
    LiveJob,
    Notice,
    Rejected,
    RequestChunk,
    RoutingStatus,
    Welcome,
)
from provider_agent.protocol.limits import MIN_MESSAGE_TO_COORDINATOR_BYTES, MIN_WINDOW_BYTES
from provider_agent.protocol.state import State


class AgentSession(Protocol):
    """The agent's state machine of one connection, whatever the dialect; see `AgentProtocol`."""

    state: State
    to_send: list[AgentFrame]
    welcome: Welcome | None

    def receive(self, frame: CoordinatorFrame) -> CoordinatorFrame | None:
        """Process one frame of the coordinator; see `AgentProtocol.receive`."""
        ...


class AgentProtocol:
    """The agent's side of one connection.

    Args:
        authority: the address that was dialed, in the form of `auth.canonical_authority`.
        public_key: the agent's identity, a raw Ed25519 key.
        sign: returns the Ed25519 signature of the given bytes.
        agent_version: the version of the agent's software, for the coordinator's logs.
        instance_id: changes with each start of the process.
        enrollment_code: the code that the operator received, or "".
        session_id: the session to resume, or None.
        live_jobs: the jobs of that session that the agent still holds.
        features: the optional features that the agent supports.
        replace: whether to replace a connected agent with the same key.

    Attributes:
        state: the state of the connection.
        to_send: frames to send, in order.
        welcome: the coordinator's `Welcome`; None until it arrives.
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
        features: Iterable[str] = (),
        replace: bool = False,
    ) -> None:
        self.state = State.AWAITING_CHALLENGE
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
        self._features = list(features)
        self._replace = replace

    def __repr__(self) -> str:
        return f"<AgentProtocol {self.state} to {self._authority}>"

    def receive(self, frame: CoordinatorFrame) -> CoordinatorFrame | None:
        """Process one frame of the coordinator.

        Returns:
            The frame if the application has to act on it, otherwise None.

        Raises:
            ProtocolViolation: the state does not allow the frame, or a `Welcome` is invalid.
        """
        match self.state, frame:
            case (
                State.OPEN,
                RequestChunk() | Ack() | JobHeader() | Cancel() | Drain() | Notice()
                | RoutingStatus(),
            ):  # fmt: skip
                return frame
            case State.AWAITING_CHALLENGE, Challenge():
                self.to_send.append(self._hello(frame.nonce))
                self.state = State.AWAITING_WELCOME
                return None
            case State.AWAITING_WELCOME, Welcome():
                self._check_welcome(frame)
                self.welcome = frame
                self.state = State.OPEN
                return frame
            case ((State.AWAITING_CHALLENGE | State.AWAITING_WELCOME), Rejected()):
                self.state = State.CLOSED
                return frame
        raise ProtocolViolation(f"{type(frame).__name__} in the state {self.state}")

    def _hello(self, nonce: bytes) -> Hello:
        return Hello(
            agent_version=self._agent_version,
            public_key=self._public_key,
            signature=self._sign(signed_bytes(self._authority, nonce)),
            enrollment_code=self._enrollment_code,
            instance_id=self._instance_id,
            session_id=self._session_id,
            live_jobs=list(self._live_jobs.values()),
            features=self._features,
            replace=self._replace,
        )

    def _check_welcome(self, welcome: Welcome) -> None:
        if welcome.window_bytes < MIN_WINDOW_BYTES:
            raise ProtocolViolation("a window below the protocol's minimum")
        if welcome.max_message_bytes < MIN_MESSAGE_TO_COORDINATOR_BYTES:
            raise ProtocolViolation("a message limit below the protocol's minimum")
        if not set(welcome.features) <= set(self._features):
            raise ProtocolViolation("a feature that Hello did not list")
        for resumed in welcome.resumed:
            job = self._live_jobs.get(resumed.job_id)
            if job is None or not job.first_offset <= resumed.offset <= job.next_offset:
                raise ProtocolViolation("a resumed job or offset that Hello did not list")
            if resumed.ended and not (job.ended and resumed.offset == job.next_offset):
                raise ProtocolViolation("a job named as ended that has not ended at that offset")
