import pytest

from provider_agent.protocol.auth import signed_bytes
from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import (
    Cancel,
    Challenge,
    CoordinatorFrame,
    Hello,
    JobHeader,
    Rejected,
    RequestChunk,
    Welcome,
)
from provider_agent.protocol.receipts import CONTEXT
from provider_agent.protocol.state import State
from provider_agent.protocol.usepod.session import UsepodSession

NONCE = b"n" * 32
JOB_ID = b"j" * 16
WELCOME = Welcome("prov_1", bytes(16), 15_000, 0, 1 << 20, 1 << 20)
HEADER = JobHeader(JOB_ID, "tiny", "openai", 2, 1000)


def new_session(enrollment_code: str = "") -> UsepodSession:
    return UsepodSession(
        public_key=b"k" * 32,
        sign=lambda data: b"signed " + data,
        agent_version="1.2.3",
        enrollment_code=enrollment_code,
    )


def open_session() -> UsepodSession:
    session = new_session()
    session.receive(Challenge(NONCE, ""))
    session.receive(WELCOME)
    return session


def test_the_answer_to_the_challenge_signs_the_bare_nonce() -> None:
    session = new_session("POD-1")

    assert session.receive(Challenge(NONCE, "")) is None
    assert session.to_send == [Hello("1.2.3", b"k" * 32, b"signed " + NONCE, "POD-1")]
    assert session.state is State.AWAITING_WELCOME


def test_a_welcome_opens_the_session() -> None:
    session = new_session()
    session.receive(Challenge(NONCE, ""))

    assert session.receive(WELCOME) is WELCOME
    assert session.welcome is WELCOME
    assert session.state is State.OPEN


@pytest.mark.parametrize(
    "nonce",
    [
        b"",
        b"n" * 15,
        b"n" * 65,
        signed_bytes("a:1", b"n" * 32),
        CONTEXT + b"n" * 32,
        b"provider-agent local control v1",
    ],
)
def test_a_nonce_that_could_be_another_signature_is_not_signed(nonce: bytes) -> None:
    session = new_session()

    with pytest.raises(ProtocolViolation, match="nonce"):
        session.receive(Challenge(nonce, ""))
    assert session.to_send == []


@pytest.mark.parametrize("frame", [HEADER, RequestChunk(JOB_ID, 0, b"{}"), Cancel(JOB_ID)])
def test_an_open_session_passes_job_frames_on(frame: CoordinatorFrame) -> None:
    assert open_session().receive(frame) is frame


@pytest.mark.parametrize("frame", [Challenge(NONCE, ""), WELCOME])
def test_an_open_session_skips_frames_of_the_handshake(frame: CoordinatorFrame) -> None:
    session = open_session()
    session.to_send.clear()

    assert session.receive(frame) is None
    assert session.to_send == []
    assert session.state is State.OPEN


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_rejection_closes_the_session_at_any_time(steps: int) -> None:
    session = new_session()
    handshake: list[CoordinatorFrame] = [Challenge(NONCE, ""), WELCOME]
    for frame in handshake[:steps]:
        session.receive(frame)
    rejected = Rejected("auth_failed", "unknown key", 60_000)

    assert session.receive(rejected) is rejected
    assert session.state is State.CLOSED


@pytest.mark.parametrize(
    "frames",
    [
        [WELCOME],
        [HEADER],
        [Challenge(NONCE, ""), Challenge(NONCE, "")],
        [Challenge(NONCE, ""), HEADER],
        [Rejected("auth_failed", ""), Challenge(NONCE, "")],
    ],
)
def test_a_frame_out_of_order_violates_the_protocol(frames: list[CoordinatorFrame]) -> None:
    session = new_session()
    for frame in frames[:-1]:
        session.receive(frame)

    with pytest.raises(ProtocolViolation):
        session.receive(frames[-1])
