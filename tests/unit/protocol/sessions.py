"""Builds sessions of both sides in any state."""

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provider_agent.protocol.frames import (
    Challenge,
    Hello,
    Job,
    JobStarted,
    LiveJob,
    Rejected,
    Welcome,
)
from provider_agent.protocol.limits import MIN_WINDOW_BYTES
from provider_agent.protocol.session import AgentSession, CoordinatorSession, State

AUTHORITY = "coordinator.example:443"
NONCE = bytes(range(32))
SESSION_ID = b"\x5e" * 16
JOB_ID = b"\x0b" * 16
OTHER_ID = b"\x0c" * 16
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
) -> AgentSession:
    return AgentSession(
        authority=authority,
        public_key=PUBLIC_KEY,
        sign=sign,
        agent_version="0.1.0",
        instance_id="i-1",
        enrollment_code="code-1",
        session_id=SESSION_ID if live_jobs else None,
        live_jobs=live_jobs,
    )


def make_coordinator(*authorities: str) -> CoordinatorSession:
    return CoordinatorSession(nonce=NONCE, name="example", authorities=authorities or (AUTHORITY,))


def make_agent_in(state: State) -> AgentSession:
    session = make_agent()
    if state is State.CLOSED:
        session.receive(Rejected("not_enrolled", ""))
        return session
    if state is not State.CONNECTING:
        session.receive(Challenge(NONCE, "example"))
    if state is State.OPEN:
        session.receive(WELCOME)
    assert session.state is state
    return session


def make_hello(session: AgentSession) -> Hello:
    session.receive(Challenge(NONCE, "example"))
    frame = session.to_send.pop()
    assert isinstance(frame, Hello)
    return frame


def make_coordinator_in(state: State) -> CoordinatorSession:
    session = make_coordinator()
    if state is State.CLOSED:
        session.reject(Rejected("not_enrolled", ""))
    elif state is not State.GREETING:
        session.receive(make_hello(make_agent()))
    if state is State.OPEN:
        session.accept(WELCOME)
    assert session.state is state
    session.to_send.clear()
    return session


def make_coordinator_with_job() -> CoordinatorSession:
    session = make_coordinator_in(State.OPEN)
    session.start_job(JOB)
    assert session.to_send == [JOB]
    session.to_send.clear()
    return session
