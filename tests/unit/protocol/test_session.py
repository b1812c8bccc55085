import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    AgentLimits,
    Cancel,
    Capabilities,
    Challenge,
    Chunk,
    CoordinatorFrame,
    Drain,
    Draining,
    Heartbeat,
    Hello,
    JobError,
    JobHeader,
    JobResult,
    LiveJob,
    Notice,
    Rejected,
    RequestChunk,
    ResumedJob,
    RoutingStatus,
    Usage,
    Welcome,
)
from provider_agent.protocol.limits import MIN_MESSAGE_TO_COORDINATOR_BYTES, MIN_WINDOW_BYTES
from provider_agent.protocol.state import State
from tests.unit.protocol.sessions import (
    AUTHORITY,
    JOB,
    JOB_ID,
    NONCE,
    OTHER_ID,
    PUBLIC_KEY,
    SESSION_ID,
    STARTED,
    WELCOME,
    make_agent,
    make_agent_in,
    make_coordinator,
    make_coordinator_in,
    make_hello,
)

# --- the handshake --------------------------------------------------------------------------------


def test_handshake_opens_both_sessions() -> None:
    agent, coordinator = make_agent(), make_coordinator(AUTHORITY)

    for challenge in coordinator.to_send:
        assert agent.receive(challenge) is None
    (hello,) = agent.to_send
    assert coordinator.receive(hello) is hello
    coordinator.to_send.clear()
    coordinator.accept(WELCOME)
    assert agent.receive(WELCOME) is WELCOME

    assert (agent.state, coordinator.state) == (State.OPEN, State.OPEN)
    assert agent.welcome is WELCOME
    assert coordinator.to_send == [WELCOME]


def test_hello_carries_the_identity_and_the_live_jobs() -> None:
    live = LiveJob(JOB_ID, 1, 5)

    frame = make_hello(make_agent(live_jobs=(live,)))

    assert frame.public_key == PUBLIC_KEY
    assert frame.agent_version == "0.1.0"
    assert frame.instance_id == "i-1"
    assert frame.enrollment_code == "code-1"
    assert frame.session_id == SESSION_ID
    assert frame.live_jobs == [live]


def test_a_signature_for_any_configured_authority_is_accepted() -> None:
    session = make_coordinator("10.0.0.1:443", AUTHORITY)

    assert session.receive(make_hello(make_agent())) is not None


@pytest.mark.parametrize(
    "frame",
    [
        # The relaying host has a valid signature, but it names the relaying host.
        pytest.param(make_hello(make_agent(authority="relay.example:443")), id="relayed challenge"),
        pytest.param(make_hello(make_agent(authority="coordinator.example:80")), id="another port"),
        pytest.param(make_hello(make_agent(sign=lambda _: bytes(64))), id="no signature"),
        pytest.param(
            make_hello(make_agent(sign=Ed25519PrivateKey.from_private_bytes(bytes(32)).sign)),
            id="another key's signature",
        ),
    ],
)
def test_an_invalid_signature_is_rejected_without_retry(frame: Hello) -> None:
    session = make_coordinator(AUTHORITY)
    session.to_send.clear()

    assert session.receive(frame) is None

    assert session.state is State.CLOSED
    (rejected,) = session.to_send
    assert isinstance(rejected, Rejected)
    assert rejected.code == "bad_signature"
    assert rejected.retry_after_ms is None


def test_a_signature_for_an_earlier_challenge_is_rejected() -> None:
    session = CoordinatorProtocol(nonce=bytes(32), name="example", authorities=[AUTHORITY])

    assert session.receive(make_hello(make_agent())) is None
    assert session.state is State.CLOSED


def test_a_coordinator_may_reject_an_agent_with_a_valid_signature() -> None:
    session = make_coordinator_in(State.AUTHENTICATED)
    rejected = Rejected("not_enrolled", "Unknown key.")

    session.reject(rejected)

    assert session.to_send == [rejected]
    assert make_agent_in(State.AWAITING_WELCOME).receive(rejected) is rejected


@pytest.mark.parametrize("state", [State.AWAITING_HELLO, State.OPEN, State.CLOSED])
def test_accept_requires_a_verified_hello(state: State) -> None:
    with pytest.raises(RuntimeError):
        make_coordinator_in(state).accept(WELCOME)


@pytest.mark.parametrize("state", [State.OPEN, State.CLOSED])
def test_reject_is_not_possible_after_admission(state: State) -> None:
    with pytest.raises(RuntimeError):
        make_coordinator_in(state).reject(Rejected("not_enrolled", ""))


@pytest.mark.parametrize(
    ("window", "message", "resumed"),
    [
        pytest.param(MIN_WINDOW_BYTES - 1, 2**20, [], id="window too small"),
        pytest.param(0, 2**20, [], id="no window"),
        pytest.param(2**20, MIN_MESSAGE_TO_COORDINATOR_BYTES - 1, [], id="messages too small"),
        pytest.param(2**20, 2**20, [ResumedJob(OTHER_ID, 5)], id="resumes a job not offered"),
        pytest.param(2**20, 2**20, [ResumedJob(JOB_ID, 3)], id="resumes from an acked offset"),
        pytest.param(2**20, 2**20, [ResumedJob(JOB_ID, 10)], id="resumes from an unsent offset"),
        pytest.param(2**20, 2**20, [ResumedJob(JOB_ID, 9, ended=True)], id="end of a running job"),
    ],
)
def test_an_invalid_welcome_is_a_violation(
    window: int, message: int, resumed: list[ResumedJob]
) -> None:
    session = make_agent(live_jobs=(LiveJob(JOB_ID, 4, 9),))
    make_hello(session)

    with pytest.raises(ProtocolViolation):
        session.receive(Welcome("p", SESSION_ID, 10_000, 0, window, message, resumed))

    assert session.state is not State.OPEN


@pytest.mark.parametrize("resumed", [[], [ResumedJob(JOB_ID, 4)], [ResumedJob(JOB_ID, 9)]])
def test_a_welcome_may_resume_from_any_offered_offset(resumed: list[ResumedJob]) -> None:
    session = make_agent(live_jobs=(LiveJob(JOB_ID, 4, 9),))
    make_hello(session)
    welcome = Welcome("p", SESSION_ID, 10_000, 0, MIN_WINDOW_BYTES, 2**20, resumed)

    assert session.receive(welcome) is welcome


# --- frames by state ------------------------------------------------------------------------------

COORDINATOR_FRAMES: list[CoordinatorFrame] = [
    Challenge(NONCE, "example"),
    WELCOME,
    Rejected("not_enrolled", ""),
    JOB.header,
    RequestChunk(JOB_ID, 0, b"{}"),
    Cancel(JOB_ID),
    Ack(JOB_ID, 0),
    Drain(),
    Notice("code", "info", "text"),
    RoutingStatus(1, []),
]
ALLOWED_AT_AGENT: dict[State, set[type]] = {
    State.AWAITING_CHALLENGE: {Challenge, Rejected},
    State.AWAITING_WELCOME: {Welcome, Rejected},
    State.OPEN: {JobHeader, RequestChunk, Cancel, Ack, Drain, Notice, RoutingStatus},
    State.CLOSED: set(),
}


@pytest.mark.parametrize("frame", COORDINATOR_FRAMES, ids=lambda frame: type(frame).__name__)
@pytest.mark.parametrize("state", ALLOWED_AT_AGENT)
def test_an_agent_accepts_a_frame_only_in_its_states(state: State, frame: CoordinatorFrame) -> None:
    session = make_agent_in(state)

    if type(frame) in ALLOWED_AT_AGENT[state]:
        assert session.receive(frame) is (None if isinstance(frame, Challenge) else frame)
    else:
        with pytest.raises(ProtocolViolation, match=type(frame).__name__):
            session.receive(frame)


AGENT_FRAMES: list[AgentFrame] = [
    make_hello(make_agent()),
    Capabilities(1, [], AgentLimits(1)),
    Heartbeat(0, 0, 1, None, None, None, None),
    STARTED,
    Chunk(JOB_ID, 0, b"x"),
    JobResult(JOB_ID, 0, Usage(None, None), "b", 1, None),
    JobError(JOB_ID, 0, "internal", ""),
    Draining(1),
]
ALLOWED_AT_COORDINATOR: dict[State, set[type]] = {
    State.AWAITING_HELLO: {Hello},
    State.AUTHENTICATED: set(),
    State.OPEN: {type(frame) for frame in AGENT_FRAMES} - {Hello},
    State.CLOSED: set(),
}


@pytest.mark.parametrize("frame", AGENT_FRAMES, ids=lambda frame: type(frame).__name__)
@pytest.mark.parametrize("state", ALLOWED_AT_COORDINATOR)
def test_a_coordinator_accepts_a_frame_only_in_its_states(state: State, frame: AgentFrame) -> None:
    session = make_coordinator_in(state)

    if type(frame) in ALLOWED_AT_COORDINATOR[state]:
        session.receive(frame)
    else:
        with pytest.raises(ProtocolViolation, match=type(frame).__name__):
            session.receive(frame)
