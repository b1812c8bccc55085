"""The agent's state machine of one connection in this dialect, sans-I/O.

It has the interface of `AgentProtocol`.
"""

from collections.abc import Callable
from typing import Final

from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import (
    AgentFrame,
    Cancel,
    Challenge,
    CoordinatorFrame,
    Hello,
    JobHeader,
    Rejected,
    RequestChunk,
    Welcome,
)
from provider_agent.protocol.state import State

MIN_NONCE_BYTES: Final = 16
"""A shorter nonce may repeat, and its signature could then be replayed."""

MAX_NONCE_BYTES: Final = 64
"""The marketplace sends 32 bytes."""

OWN_CONTEXT: Final = b"provider-agent"
"""All that the agent signs elsewhere with the same key begins with this: the handshake of version
1, receipts and local commands. As the signature here is over the bare nonce, a coordinator could
otherwise obtain one of those."""


class UsepodSession:
    """The agent's side of one connection.

    Args:
        public_key: the agent's identity, a raw Ed25519 key.
        sign: returns the Ed25519 signature of the given bytes.
        agent_version: the version of the agent's software, for the coordinator's logs.
        enrollment_code: the code that the operator received; "" if the provider id is known.

    Attributes:
        state: the state of the connection.
        to_send: frames to send, in order.
        welcome: what `auth_ok` stands for; None until it arrives.
    """

    def __init__(
        self,
        *,
        public_key: bytes,
        sign: Callable[[bytes], bytes],
        agent_version: str,
        enrollment_code: str = "",
    ) -> None:
        self.state = State.AWAITING_CHALLENGE
        self.to_send: list[AgentFrame] = []
        self.welcome: Welcome | None = None
        self._public_key = public_key
        self._sign = sign
        self._agent_version = agent_version
        self._enrollment_code = enrollment_code

    def __repr__(self) -> str:
        return f"<UsepodSession {self.state}>"

    def receive(self, frame: CoordinatorFrame) -> CoordinatorFrame | None:
        """Process one frame of the coordinator.

        Returns:
            The frame if the application has to act on it, otherwise None.

        Raises:
            ProtocolViolation: the handshake does not allow the frame, or the nonce is one that the
                agent must not sign.
        """
        match self.state, frame:
            case State.OPEN, JobHeader() | RequestChunk() | Cancel():
                return frame
            case State.OPEN, Challenge() | Welcome():
                return None  # an open session skips what it does not expect, as the Rust agent does
            case State.AWAITING_CHALLENGE, Challenge():
                self.to_send.append(self._hello(frame.nonce))
                self.state = State.AWAITING_WELCOME
                return None
            case State.AWAITING_WELCOME, Welcome():
                self.welcome = frame
                self.state = State.OPEN
                return frame
            case _, Rejected():
                self.state = State.CLOSED
                return frame
        raise ProtocolViolation(f"{type(frame).__name__} in the state {self.state}")

    def _hello(self, nonce: bytes) -> Hello:
        if not MIN_NONCE_BYTES <= len(nonce) <= MAX_NONCE_BYTES or nonce.startswith(OWN_CONTEXT):
            raise ProtocolViolation(
                f"a nonce that is not {MIN_NONCE_BYTES} to {MAX_NONCE_BYTES} random bytes"
            )
        return Hello(
            agent_version=self._agent_version,
            public_key=self._public_key,
            signature=self._sign(nonce),
            enrollment_code=self._enrollment_code,
        )
