from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from provider_agent.protocol.coordinator_protocol import BAD_SIGNATURE, CoordinatorProtocol
from provider_agent.protocol.frames import Challenge, Hello, Rejected
from provider_agent.protocol.usepod.coordinator_session import is_signed, new_nonce
from provider_agent.protocol.usepod.session import UsepodSession

NONCE = bytes(range(32))


def hello_for(nonce: bytes) -> Hello:
    key = Ed25519PrivateKey.generate()
    session = UsepodSession(
        public_key=key.public_key().public_bytes_raw(), sign=key.sign, agent_version="1"
    )
    session.receive(Challenge(nonce, ""))
    (hello,) = session.to_send
    assert isinstance(hello, Hello)
    return hello


def test_the_signature_of_our_agent_is_valid() -> None:
    hello = hello_for(NONCE)

    assert is_signed(hello, NONCE)
    assert not is_signed(hello, NONCE[::-1])
    assert not is_signed(replace(hello, public_key=hello_for(NONCE).public_key), NONCE)
    assert not is_signed(replace(hello, signature=bytes(64)), NONCE)


def test_a_nonce_is_not_the_beginning_of_another_signed_text() -> None:
    unsafe = b"provider-agent.v1 hello\x00".ljust(32, b"x")
    answers = iter([unsafe, unsafe, NONCE])

    assert new_nonce(lambda _: next(answers)) == NONCE


def test_the_coordinator_rejects_a_signature_of_another_nonce() -> None:
    protocol = CoordinatorProtocol(
        nonce=NONCE, name="", authorities=(), verify=lambda hello: is_signed(hello, NONCE)
    )
    protocol.to_send.clear()

    assert protocol.receive(hello_for(NONCE[::-1])) is None
    (rejected,) = protocol.to_send
    assert isinstance(rejected, Rejected)
    assert rejected.code == BAD_SIGNATURE
