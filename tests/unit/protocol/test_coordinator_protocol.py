import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import (
    AgentFrame,
    AgentLimits,
    Capabilities,
    Chunk,
    Draining,
    Heartbeat,
    Hello,
    JobError,
    JobResult,
    Rejected,
    Usage,
)
from provider_agent.protocol.state import State
from tests.unit.protocol.protocols import (
    AUTHORITY,
    JOB_ID,
    STARTED,
    WELCOME,
    make_agent,
    make_agent_in,
    make_coordinator,
    make_coordinator_in,
    make_hello,
)


def test_handshake_opens_the_link_on_both_sides() -> None:
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


def test_a_signature_for_any_configured_authority_is_accepted() -> None:
    protocol = make_coordinator("10.0.0.1:443", AUTHORITY)

    assert protocol.receive(make_hello(make_agent())) is not None


@pytest.mark.parametrize(
    "frame",
    [
        # The signature is valid, but it covers the authority of the relaying host.
        pytest.param(make_hello(make_agent(authority="relay.example:443")), id="relayed challenge"),
        pytest.param(make_hello(make_agent(authority="coordinator.example:80")), id="another port"),
        pytest.param(make_hello(make_agent(sign=lambda _: bytes(64))), id="64 zero bytes"),
        pytest.param(
            make_hello(make_agent(sign=Ed25519PrivateKey.from_private_bytes(bytes(32)).sign)),
            id="another key's signature",
        ),
    ],
)
def test_an_invalid_signature_is_rejected_without_retry(frame: Hello) -> None:
    protocol = make_coordinator(AUTHORITY)
    protocol.to_send.clear()

    assert protocol.receive(frame) is None

    assert protocol.state is State.CLOSED
    (rejected,) = protocol.to_send
    assert isinstance(rejected, Rejected)
    assert rejected.code == "bad_signature"
    assert rejected.retry_after_ms is None


def test_a_signature_for_an_earlier_challenge_is_rejected() -> None:
    protocol = CoordinatorProtocol(nonce=bytes(32), name="example", authorities=[AUTHORITY])

    assert protocol.receive(make_hello(make_agent())) is None
    assert protocol.state is State.CLOSED


def test_a_coordinator_may_reject_an_agent_with_a_valid_signature() -> None:
    protocol = make_coordinator_in(State.AUTHENTICATED)
    rejected = Rejected("not_enrolled", "Unknown key.")

    protocol.reject(rejected)

    assert protocol.to_send == [rejected]
    assert make_agent_in(State.AWAITING_WELCOME).receive(rejected) is rejected


@pytest.mark.parametrize("state", [State.AWAITING_HELLO, State.OPEN, State.CLOSED])
def test_accept_is_possible_only_after_hello_and_before_welcome(state: State) -> None:
    with pytest.raises(RuntimeError):
        make_coordinator_in(state).accept(WELCOME)


@pytest.mark.parametrize("state", [State.OPEN, State.CLOSED])
def test_reject_is_not_possible_after_admission_or_rejection(state: State) -> None:
    with pytest.raises(RuntimeError):
        make_coordinator_in(state).reject(Rejected("not_enrolled", ""))


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
def test_a_coordinator_accepts_a_frame_only_in_states_that_allow_it(
    state: State, frame: AgentFrame
) -> None:
    protocol = make_coordinator_in(state)

    if type(frame) in ALLOWED_AT_COORDINATOR[state]:
        protocol.receive(frame)
    else:
        with pytest.raises(ProtocolViolation, match=type(frame).__name__):
            protocol.receive(frame)
