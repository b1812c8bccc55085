import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.protocol.auth import (
    CONTEXT,
    canonical_authority,
    signed_bytes,
    verify_signature,
)
from tests.unit.protocol.golden_vectors import AUTHORITY, NONCE, PUBLIC_KEY, SEED, SIGNATURE

KEY = Ed25519PrivateKey.from_private_bytes(SEED)


@pytest.mark.parametrize(
    ("scheme", "host", "port", "authority"),
    [
        ("wss", "coordinator.example", None, "coordinator.example:443"),
        ("https", "coordinator.example", None, "coordinator.example:443"),
        ("ws", "localhost", None, "localhost:80"),
        ("http", "localhost", None, "localhost:80"),
        ("wss", "coordinator.example", 443, "coordinator.example:443"),
        ("wss", "coordinator.example", 8443, "coordinator.example:8443"),
        ("anything", "coordinator.example", 1, "coordinator.example:1"),
        ("wss", "Coordinator.EXAMPLE", None, "coordinator.example:443"),
        ("wss", "coordinator.example.", None, "coordinator.example:443"),
        ("wss", "xn--bcher-kva.example", None, "xn--bcher-kva.example:443"),
        ("ws", "127.0.0.1", 8080, "127.0.0.1:8080"),
        ("ws", "::1", 8080, "[::1]:8080"),
        ("ws", "[::1]", 8080, "[::1]:8080"),
        ("wss", "[2001:DB8::1]", None, "[2001:db8::1]:443"),
    ],
)
def test_equivalent_addresses_have_the_same_authority(
    scheme: str, host: str, port: int | None, authority: str
) -> None:
    assert canonical_authority(scheme, host, port) == authority


@pytest.mark.parametrize(
    ("scheme", "host", "port"),
    [
        pytest.param("ftp", "coordinator.example", None, id="no default port"),
        pytest.param("wss", "", None, id="no host"),
        pytest.param("wss", ".", None, id="only a dot"),
        pytest.param("wss", "[]", 443, id="only brackets"),
        pytest.param("wss", "bücher.example", None, id="not ASCII"),
    ],
)
def test_an_invalid_address_has_no_authority(scheme: str, host: str, port: int | None) -> None:
    with pytest.raises(ValueError, match=r"host|port"):
        canonical_authority(scheme, host, port)


def test_signed_bytes_are_context_authority_zero_byte_and_nonce() -> None:
    assert signed_bytes(AUTHORITY, NONCE) == (
        b"provider-agent.v1 hello\x00" + b"coordinator.example:443" + b"\x00" + NONCE
    )


def test_the_key_produces_the_golden_signature() -> None:
    assert KEY.public_key().public_bytes_raw() == PUBLIC_KEY
    assert KEY.sign(signed_bytes(AUTHORITY, NONCE)) == SIGNATURE
    assert verify_signature(PUBLIC_KEY, SIGNATURE, AUTHORITY, NONCE)


@pytest.mark.parametrize(
    ("public_key", "signature", "authority", "nonce"),
    [
        pytest.param(PUBLIC_KEY, SIGNATURE, "evil.example:443", NONCE, id="another host"),
        pytest.param(PUBLIC_KEY, SIGNATURE, "coordinator.example:80", NONCE, id="another port"),
        pytest.param(PUBLIC_KEY, SIGNATURE, AUTHORITY, bytes(32), id="another nonce"),
        pytest.param(PUBLIC_KEY, bytes(64), AUTHORITY, NONCE, id="no signature"),
        pytest.param(PUBLIC_KEY, b"", AUTHORITY, NONCE, id="empty signature"),
        pytest.param(SEED, SIGNATURE, AUTHORITY, NONCE, id="another key"),
        pytest.param(b"short", SIGNATURE, AUTHORITY, NONCE, id="not a key"),
        pytest.param(
            PUBLIC_KEY,
            KEY.sign(signed_bytes(AUTHORITY, NONCE)[len(CONTEXT) :]),
            AUTHORITY,
            NONCE,
            id="signed without the context",
        ),
    ],
)
def test_a_signature_over_other_bytes_is_rejected(
    public_key: bytes, signature: bytes, authority: str, nonce: bytes
) -> None:
    assert not verify_signature(public_key, signature, authority, nonce)


_AUTHORITIES = st.from_regex(r"[a-z0-9.\-\[\]]{1,12}:[0-9]{1,5}", fullmatch=True)
_NONCES = st.binary(min_size=32, max_size=32)


@given(_AUTHORITIES, _NONCES, _AUTHORITIES, _NONCES)
def test_different_authorities_or_nonces_have_different_signed_bytes(
    authority: str, nonce: bytes, other_authority: str, other_nonce: bytes
) -> None:
    same = (authority, nonce) == (other_authority, other_nonce)

    assert (signed_bytes(authority, nonce) == signed_bytes(other_authority, other_nonce)) == same


def test_moving_a_byte_between_authority_and_nonce_changes_the_signed_bytes() -> None:
    assert signed_bytes("a:1", b"2" + bytes(31)) != signed_bytes("a:12", bytes(31))
