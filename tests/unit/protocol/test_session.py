from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.exceptions import ProtocolViolation
from protocol.frames import (
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
    Job,
    JobError,
    JobResult,
    JobStarted,
    LiveJob,
    Rejected,
    Welcome,
)
from protocol.limits import MIN_MESSAGE_TO_COORDINATOR_BYTES, MIN_WINDOW_BYTES
from protocol.session import AgentSession, CoordinatorSession, State

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


def agent(
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


def coordinator(*authorities: str) -> CoordinatorSession:
    return CoordinatorSession(nonce=NONCE, name="example", authorities=authorities or (AUTHORITY,))


def agent_in(state: State) -> AgentSession:
    session = agent()
    if state is State.CLOSED:
        session.receive(Rejected("not_enrolled", ""))
        return session
    if state is not State.CONNECTING:
        session.receive(Challenge(NONCE, "example"))
    if state is State.OPEN:
        session.receive(WELCOME)
    assert session.state is state
    return session


def hello(session: AgentSession) -> Hello:
    session.receive(Challenge(NONCE, "example"))
    frame = session.to_send.pop()
    assert isinstance(frame, Hello)
    return frame


def coordinator_in(state: State) -> CoordinatorSession:
    session = coordinator()
    if state is State.CLOSED:
        session.reject(Rejected("not_enrolled", ""))
    elif state is not State.GREETING:
        session.receive(hello(agent()))
    if state is State.OPEN:
        session.accept(WELCOME)
    assert session.state is state
    session.to_send.clear()
    return session


# --- the handshake --------------------------------------------------------------------------------


def test_both_sides_shake_hands() -> None:
    one, other = agent(), coordinator(AUTHORITY)

    for challenge in other.to_send:
        assert one.receive(challenge) is None
    (greeting,) = one.to_send
    assert other.receive(greeting) is greeting
    other.to_send.clear()
    other.accept(WELCOME)
    assert one.receive(WELCOME) is WELCOME

    assert (one.state, other.state) == (State.OPEN, State.OPEN)
    assert one.welcome is WELCOME
    assert other.to_send == [WELCOME]


def test_hello_says_who_the_agent_is_and_what_it_holds() -> None:
    live = LiveJob(JOB_ID, 1, 5)

    frame = hello(agent(live_jobs=(live,)))

    assert frame.public_key == PUBLIC_KEY
    assert frame.agent_version == "0.1.0"
    assert frame.instance_id == "i-1"
    assert frame.enrollment_code == "code-1"
    assert frame.session_id == SESSION_ID
    assert frame.live_jobs == [live]


def test_a_coordinator_may_be_dialled_by_any_of_its_addresses() -> None:
    session = coordinator("10.0.0.1:443", AUTHORITY)

    assert session.receive(hello(agent())) is not None


@pytest.mark.parametrize(
    "frame",
    [
        # A relaying host got a good signature, but one that names the host itself.
        pytest.param(hello(agent(authority="relay.example:443")), id="relayed challenge"),
        pytest.param(hello(agent(authority="coordinator.example:80")), id="another port"),
        pytest.param(hello(agent(sign=lambda _: bytes(64))), id="no signature"),
        pytest.param(
            hello(agent(sign=Ed25519PrivateKey.from_private_bytes(bytes(32)).sign)),
            id="another key's signature",
        ),
    ],
)
def test_a_hello_that_proves_nothing_is_rejected_for_good(frame: Hello) -> None:
    session = coordinator(AUTHORITY)
    session.to_send.clear()

    assert session.receive(frame) is None

    assert session.state is State.CLOSED
    (rejected,) = session.to_send
    assert isinstance(rejected, Rejected)
    assert rejected.code == "bad_signature"
    assert rejected.retry_after_ms is None


def test_a_signature_for_an_earlier_challenge_is_rejected() -> None:
    session = CoordinatorSession(nonce=bytes(32), name="example", authorities=[AUTHORITY])

    assert session.receive(hello(agent())) is None
    assert session.state is State.CLOSED


def test_a_coordinator_may_turn_a_proven_agent_away() -> None:
    session = coordinator_in(State.DECIDING)
    rejected = Rejected("not_enrolled", "Unknown key.")

    session.reject(rejected)

    assert session.to_send == [rejected]
    assert agent_in(State.GREETING).receive(rejected) is rejected


@pytest.mark.parametrize("state", [State.GREETING, State.OPEN, State.CLOSED])
def test_only_a_proven_agent_can_be_accepted(state: State) -> None:
    with pytest.raises(RuntimeError):
        coordinator_in(state).accept(WELCOME)


@pytest.mark.parametrize("state", [State.OPEN, State.CLOSED])
def test_an_admitted_agent_can_no_longer_be_rejected(state: State) -> None:
    with pytest.raises(RuntimeError):
        coordinator_in(state).reject(Rejected("not_enrolled", ""))


@pytest.mark.parametrize(
    ("window", "message", "resumed"),
    [
        pytest.param(MIN_WINDOW_BYTES - 1, 2**20, {}, id="window too small"),
        pytest.param(0, 2**20, {}, id="no window"),
        pytest.param(2**20, MIN_MESSAGE_TO_COORDINATOR_BYTES - 1, {}, id="messages too small"),
        pytest.param(2**20, 2**20, {OTHER_ID: 5}, id="resumes a job that was not offered"),
        pytest.param(2**20, 2**20, {JOB_ID: 3}, id="resumes from a forgotten offset"),
        pytest.param(2**20, 2**20, {JOB_ID: 10}, id="resumes from an offset never reached"),
    ],
)
def test_an_impossible_welcome_is_a_violation(
    window: int, message: int, resumed: dict[bytes, int]
) -> None:
    session = agent(live_jobs=(LiveJob(JOB_ID, 4, 9),))
    hello(session)

    with pytest.raises(ProtocolViolation):
        session.receive(Welcome("p", SESSION_ID, 10_000, 0, window, message, resumed))

    assert session.state is not State.OPEN


@pytest.mark.parametrize("resumed", [{}, {JOB_ID: 4}, {JOB_ID: 9}])
def test_a_welcome_may_resume_from_any_offered_offset(resumed: dict[bytes, int]) -> None:
    session = agent(live_jobs=(LiveJob(JOB_ID, 4, 9),))
    hello(session)
    welcome = Welcome("p", SESSION_ID, 10_000, 0, MIN_WINDOW_BYTES, 2**20, resumed)

    assert session.receive(welcome) is welcome


# --- what is allowed when -------------------------------------------------------------------------

COORDINATOR_FRAMES: list[CoordinatorFrame] = [
    Challenge(NONCE, "example"),
    WELCOME,
    Rejected("not_enrolled", ""),
    JOB,
    Cancel(JOB_ID),
    Ack(JOB_ID, 0),
    Drain(),
]
ALLOWED_AT_AGENT: dict[State, set[type]] = {
    State.CONNECTING: {Challenge, Rejected},
    State.GREETING: {Welcome, Rejected},
    State.OPEN: {Job, Cancel, Ack, Drain},
    State.CLOSED: set(),
}


@pytest.mark.parametrize("frame", COORDINATOR_FRAMES, ids=lambda frame: type(frame).__name__)
@pytest.mark.parametrize("state", ALLOWED_AT_AGENT)
def test_an_agent_takes_each_frame_only_in_its_state(state: State, frame: CoordinatorFrame) -> None:
    session = agent_in(state)

    if type(frame) in ALLOWED_AT_AGENT[state]:
        assert session.receive(frame) is (None if isinstance(frame, Challenge) else frame)
    else:
        with pytest.raises(ProtocolViolation, match=type(frame).__name__):
            session.receive(frame)


AGENT_FRAMES: list[AgentFrame] = [
    hello(agent()),
    Capabilities(1, [], AgentLimits(1)),
    Heartbeat(0, 0, 1, None, None, None, None),
    STARTED,
    Chunk(JOB_ID, 0, b"x"),
    JobResult(JOB_ID, 0, None, None, 1, None),
    JobError(JOB_ID, 0, "internal", ""),
    Draining(1),
]
ALLOWED_AT_COORDINATOR: dict[State, set[type]] = {
    State.GREETING: {Hello},
    State.DECIDING: set(),
    State.OPEN: {type(frame) for frame in AGENT_FRAMES} - {Hello},
    State.CLOSED: set(),
}


@pytest.mark.parametrize("frame", AGENT_FRAMES, ids=lambda frame: type(frame).__name__)
@pytest.mark.parametrize("state", ALLOWED_AT_COORDINATOR)
def test_a_coordinator_takes_each_frame_only_in_its_state(state: State, frame: AgentFrame) -> None:
    session = coordinator_in(state)

    if type(frame) in ALLOWED_AT_COORDINATOR[state]:
        session.receive(frame)
    else:
        with pytest.raises(ProtocolViolation, match=type(frame).__name__):
            session.receive(frame)


# --- jobs at the coordinator ----------------------------------------------------------------------


def with_job() -> CoordinatorSession:
    session = coordinator_in(State.OPEN)
    session.start_job(JOB)
    assert session.to_send == [JOB]
    session.to_send.clear()
    return session


def test_a_response_is_passed_on_and_its_end_acknowledged() -> None:
    session = with_job()
    chunk = Chunk(JOB_ID, 0, b"abc")
    end = JobResult(JOB_ID, 3, 1, 2, 10, 5)

    assert session.receive(STARTED) is STARTED
    assert session.receive(chunk) is chunk
    assert session.receive(end) is end

    assert session.to_send == [Ack(JOB_ID, 3, final=True)]
    assert session.streams == {}


def test_a_job_may_fail_before_it_started() -> None:
    session = with_job()
    end = JobError(JOB_ID, 0, "out_of_capacity", "Full.")

    assert session.receive(end) is end
    assert session.to_send == [Ack(JOB_ID, 0, final=True)]


def test_consumed_bytes_are_acknowledged_by_the_quarter_window() -> None:
    session = with_job()
    session.receive(STARTED)
    quarter = MIN_WINDOW_BYTES // 4
    session.receive(Chunk(JOB_ID, 0, bytes(quarter)))

    session.consumed(JOB_ID, quarter - 1)
    assert session.to_send == []
    session.consumed(JOB_ID, 1)
    assert session.to_send == [Ack(JOB_ID, quarter)]


def test_a_repeated_chunk_is_passed_on_once() -> None:
    session = with_job()
    session.receive(STARTED)
    session.receive(Chunk(JOB_ID, 0, b"abc"))

    assert session.receive(Chunk(JOB_ID, 0, b"abc")) is None
    assert session.receive(Chunk(JOB_ID, 1, b"bcde")) == Chunk(JOB_ID, 3, b"de")


@pytest.mark.parametrize(
    ("before", "bad"),
    [
        pytest.param([], Chunk(JOB_ID, 0, b"x"), id="chunk before the start"),
        pytest.param([STARTED], STARTED, id="second start"),
        pytest.param([STARTED], Chunk(JOB_ID, 1, b"x"), id="gap"),
        pytest.param([STARTED], Chunk(JOB_ID, 0, b""), id="empty chunk"),
        pytest.param([STARTED], Chunk(JOB_ID, 0, bytes(MIN_WINDOW_BYTES + 1)), id="over window"),
        pytest.param([STARTED], JobResult(JOB_ID, 1, 0, 0, 1, 1), id="end counts too much"),
        pytest.param(
            [STARTED, Chunk(JOB_ID, 0, b"ab")], JobError(JOB_ID, 1, "internal", ""), id="too little"
        ),
    ],
)
def test_a_response_against_the_rules_is_a_violation(
    before: list[AgentFrame], bad: AgentFrame
) -> None:
    session = with_job()
    for frame in before:
        session.receive(frame)

    with pytest.raises(ProtocolViolation):
        session.receive(bad)


@pytest.mark.parametrize(
    ("frame", "answer"),
    [
        (JobStarted(OTHER_ID, 200, "", ""), []),
        (Chunk(OTHER_ID, 7, b"x"), []),
        (JobResult(OTHER_ID, 9, None, None, 1, None), [Ack(OTHER_ID, 9, final=True)]),
        (JobError(OTHER_ID, 4, "internal", ""), [Ack(OTHER_ID, 4, final=True)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_frames_of_an_unknown_job_are_ignored_and_its_end_is_acknowledged(
    frame: AgentFrame, answer: list[CoordinatorFrame]
) -> None:
    session = with_job()

    assert session.receive(frame) is None
    assert session.to_send == answer


def test_a_job_id_can_not_be_used_twice_at_once() -> None:
    session = with_job()

    with pytest.raises(RuntimeError):
        session.start_job(JOB)


@pytest.mark.parametrize("state", [State.GREETING, State.DECIDING, State.CLOSED])
def test_jobs_wait_for_an_open_session(state: State) -> None:
    with pytest.raises(RuntimeError):
        coordinator_in(state).start_job(JOB)


def test_a_cancelled_job_keeps_its_stream_until_its_end() -> None:
    session = with_job()

    session.cancel_job(JOB_ID, "client gone")

    assert session.to_send == [Cancel(JOB_ID, "client gone")]
    assert JOB_ID in session.streams


def test_a_job_that_ended_can_be_neither_cancelled_nor_consumed() -> None:
    session = with_job()
    session.receive(JobError(JOB_ID, 0, "internal", ""))
    session.to_send.clear()

    session.cancel_job(JOB_ID, "late")
    session.consumed(JOB_ID, 10**6)

    assert session.to_send == []


def test_a_session_tells_its_state() -> None:
    assert repr(agent()) == "<AgentSession connecting to coordinator.example:443>"
    assert repr(with_job()) == "<CoordinatorSession open jobs=1>"
