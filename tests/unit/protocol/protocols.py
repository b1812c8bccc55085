"""Builds the protocol state machines of both sides, in any state."""

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provider_agent.protocol.agent_protocol import AgentProtocol
from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
from provider_agent.protocol.frames import (
    Challenge,
    Hello,
    JobStarted,
    LiveJob,
    Rejected,
    RequestChunk,
    Welcome,
)
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import BATCH_BYTES, MIN_WINDOW_BYTES
from provider_agent.protocol.state import State

AUTHORITY = "coordinator.example:443"
NONCE = bytes(range(32))
SESSION_ID = b"\x5e" * 16
JOB_ID = b"\x0b" * 16
OTHER_ID = b"\x0c" * 16
ENDED_ID = b"\x0d" * 16
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC_KEY = KEY.public_key().public_bytes_raw()

WELCOME = Welcome("provider-7", SESSION_ID, 10_000, 0, MIN_WINDOW_BYTES, 2**20)
JOB = Job(JOB_ID, "model", "openai", b"{}", 1000)
STARTED = JobStarted(JOB_ID, 200, "application/json", "echo")


def make_agent(
    *,
    authority: str = AUTHORITY,
    sign: Callable[[bytes], bytes] = KEY.sign,
    live_jobs: tuple[LiveJob, ...] = (),
) -> AgentProtocol:
    return AgentProtocol(
        authority=authority,
        public_key=PUBLIC_KEY,
        sign=sign,
        agent_version="0.1.0",
        instance_id="i-1",
        enrollment_code="code-1",
        session_id=SESSION_ID if live_jobs else None,
        live_jobs=live_jobs,
    )


def make_coordinator(*authorities: str) -> CoordinatorProtocol:
    return CoordinatorProtocol(nonce=NONCE, name="example", authorities=authorities or (AUTHORITY,))


def make_agent_in(state: State) -> AgentProtocol:
    protocol = make_agent()
    if state is State.CLOSED:
        protocol.receive(Rejected("not_enrolled", ""))
        return protocol
    if state is not State.AWAITING_CHALLENGE:
        protocol.receive(Challenge(NONCE, "example"))
    if state is State.OPEN:
        protocol.receive(WELCOME)
    assert protocol.state is state
    return protocol


def make_hello(protocol: AgentProtocol) -> Hello:
    protocol.receive(Challenge(NONCE, "example"))
    frame = protocol.to_send.pop()
    assert isinstance(frame, Hello)
    return frame


def make_coordinator_in(state: State) -> CoordinatorProtocol:
    protocol = make_coordinator()
    if state is State.CLOSED:
        protocol.reject(Rejected("not_enrolled", ""))
    elif state is not State.AWAITING_HELLO:
        protocol.receive(make_hello(make_agent()))
    if state is State.OPEN:
        protocol.accept(WELCOME)
    assert protocol.state is state
    protocol.to_send.clear()
    return protocol


def make_coordinator_with_job() -> CoordinatorProtocol:
    protocol = make_coordinator_in(State.OPEN)
    protocol.start_job(JOB)
    assert protocol.next_frames(BATCH_BYTES) == [JOB.header, RequestChunk(JOB_ID, 0, JOB.request)]
    return protocol
