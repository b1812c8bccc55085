import pytest

from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import (
    Ack,
    Cancel,
    Challenge,
    CoordinatorFrame,
    Drain,
    JobHeader,
    LiveJob,
    Notice,
    Rejected,
    RequestChunk,
    ResumedJob,
    RoutingStatus,
    Welcome,
)
from provider_agent.protocol.limits import MIN_MESSAGE_TO_COORDINATOR_BYTES, MIN_WINDOW_BYTES
from provider_agent.protocol.state import State
from tests.unit.protocol.protocols import (
    ENDED_ID,
    JOB,
    JOB_ID,
    NONCE,
    OTHER_ID,
    PUBLIC_KEY,
    SESSION_ID,
    WELCOME,
    make_agent,
    make_agent_in,
    make_hello,
)


def test_hello_carries_the_identity_and_the_live_jobs() -> None:
    live = LiveJob(JOB_ID, 1, 5)

    frame = make_hello(make_agent(live_jobs=(live,)))

    assert frame.public_key == PUBLIC_KEY
    assert frame.agent_version == "0.1.0"
    assert frame.instance_id == "i-1"
    assert frame.enrollment_code == "code-1"
    assert frame.session_id == SESSION_ID
    assert frame.live_jobs == [live]


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
        pytest.param(
            2**20, 2**20, [ResumedJob(ENDED_ID, 8, ended=True)], id="end at another offset"
        ),
    ],
)
def test_an_invalid_welcome_is_a_violation(
    window: int, message: int, resumed: list[ResumedJob]
) -> None:
    live = (LiveJob(JOB_ID, 4, 9), LiveJob(ENDED_ID, 4, 9, ended=True))
    protocol = make_agent(live_jobs=live)
    make_hello(protocol)

    with pytest.raises(ProtocolViolation):
        protocol.receive(Welcome("p", SESSION_ID, 10_000, 0, window, message, resumed))

    assert protocol.state is not State.OPEN


@pytest.mark.parametrize("resumed", [[], [ResumedJob(JOB_ID, 4)], [ResumedJob(JOB_ID, 9)]])
def test_a_welcome_may_resume_from_any_offered_offset(resumed: list[ResumedJob]) -> None:
    protocol = make_agent(live_jobs=(LiveJob(JOB_ID, 4, 9),))
    make_hello(protocol)
    welcome = Welcome("p", SESSION_ID, 10_000, 0, MIN_WINDOW_BYTES, 2**20, resumed)

    assert protocol.receive(welcome) is welcome


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
def test_an_agent_accepts_a_frame_only_in_states_that_allow_it(
    state: State, frame: CoordinatorFrame
) -> None:
    protocol = make_agent_in(state)

    if type(frame) in ALLOWED_AT_AGENT[state]:
        assert protocol.receive(frame) is (None if isinstance(frame, Challenge) else frame)
    else:
        with pytest.raises(ProtocolViolation, match=type(frame).__name__):
            protocol.receive(frame)
