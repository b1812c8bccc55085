import pytest

from provider_agent.agent.control.signature import PATH, VALID_S, SignatureCheck, signed_message
from provider_agent.agent.identity.key import Identity
from provider_agent.protocol.ed25519 import PrivateKey
from tests.kit.fake_clock import FakeClock

NOW = 1_700_000_000.0
BODY = b'{"action":"pause"}'
NOT_SIGNED = "the command is not signed with the agent's key"


class Signed:
    """A signature check at a time that the test sets, and its key."""

    def __init__(self) -> None:
        self.identity = Identity(PrivateKey.generate())
        self.now = NOW - 100
        self.check = SignatureCheck(self.identity.public_key, lambda: self.now)
        self.now = NOW

    def sign(self, at: float = NOW, port: int = 8490, path: str = PATH, body: bytes = BODY) -> str:
        return self.identity.sign(signed_message(path, port, int(at * 1e9), body)).hex()

    def problem(self, signature: str, at: float = NOW, body: bytes = BODY) -> str:
        return self.check.problem(PATH, 8490, str(int(at * 1e9)), signature, body)


def test_signature_is_accepted_once() -> None:
    signed = Signed()
    assert signed.problem(signed.sign()) == ""
    assert signed.problem(signed.sign()) == "the command was received before"
    assert signed.problem(signed.sign().upper()) == "the command was received before"
    assert signed.problem(signed.sign(NOW + 1), NOW + 1) == ""


@pytest.mark.parametrize(
    ("offset_s", "accepted"), [(-31, False), (-29, True), (29, True), (31, False)]
)
def test_time_limits_the_signature(offset_s: float, accepted: bool) -> None:
    signed = Signed()
    problem = signed.problem(signed.sign(NOW + offset_s), NOW + offset_s)
    assert (problem == "") is accepted


def test_signature_from_before_the_start_of_the_agent_is_refused() -> None:
    signed = Signed()
    restarted = SignatureCheck(signed.identity.public_key, lambda: NOW)
    time_ns = int((NOW - 1) * 1e9)
    assert "too old" in restarted.problem(PATH, 8490, str(time_ns), signed.sign(NOW - 1), BODY)


def test_signature_covers_every_part() -> None:
    signed = Signed()
    assert signed.problem(signed.sign(port=8491)) == NOT_SIGNED
    assert signed.problem(signed.sign(path="/other")) == NOT_SIGNED
    assert signed.problem(signed.sign(body=b"{}")) == NOT_SIGNED
    assert signed.problem(signed.sign(NOW + 1)) == NOT_SIGNED
    assert signed.problem(Signed().sign()) == NOT_SIGNED


@pytest.mark.parametrize(
    ("time_text", "signature"),
    [("", ""), ("x", "00"), ("1", "zz"), ("1" * 9000, "00"), ("1", "00")],
)
def test_malformed_headers_are_refused(time_text: str, signature: str) -> None:
    assert Signed().check.problem(PATH, 8490, time_text, signature, BODY) == NOT_SIGNED


def test_accepted_signatures_are_forgotten_when_they_are_no_longer_valid() -> None:
    signed = Signed()
    for count in range(100):
        signed.now = NOW + count * VALID_S
        assert signed.problem(signed.sign(signed.now), signed.now) == ""
    assert len(signed.check._accepted) <= 2


def test_other_signatures_of_the_key_are_not_commands() -> None:
    signed = Signed()
    assert signed.problem(signed.identity.sign(BODY).hex()) == NOT_SIGNED


def test_clock_that_was_set_back_before_the_start_does_not_refuse_commands_for_ever() -> None:
    signed, clock = Signed(), FakeClock()
    check = SignatureCheck(signed.identity.public_key, lambda: signed.now, clock)
    signed.now = earlier = NOW - 3600
    problems = []
    for wait_s in (1.0, VALID_S):
        clock.now += wait_s
        time_text = str(int(earlier * 1e9))
        problems.append(check.problem(PATH, 8490, time_text, signed.sign(earlier), BODY))
    assert problems == ["the command is too old, or the clocks differ; repeat it", ""]
