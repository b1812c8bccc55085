from urllib.parse import urlsplit

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
from tests.unit.protocol.vectors import VECTORS, AuthorityVector, SignatureVector

EXAMPLE = VECTORS.signatures[0]
AUTHORITY = EXAMPLE.authority
SEED, NONCE, PUBLIC_KEY, SIGNATURE = map(
    bytes.fromhex, (EXAMPLE.seed, EXAMPLE.nonce, EXAMPLE.public_key, EXAMPLE.signature)
)
KEY = Ed25519PrivateKey.from_private_bytes(SEED)


@pytest.mark.parametrize("vector", VECTORS.authorities, ids=lambda vector: vector.url)
def test_the_authority_of_a_url_matches_the_vector(vector: AuthorityVector) -> None:
    url = urlsplit(vector.url)
    if vector.authority is None:
        with pytest.raises(ValueError, match="host"):
            canonical_authority(url.scheme, url.hostname or "", url.port)
    else:
        assert (
            canonical_authority(url.scheme, url.hostname or "", url.port)
            == canonical_authority(url.scheme, (url.hostname or "").upper(), url.port)
            == vector.authority
        )


@pytest.mark.parametrize(
    ("scheme", "host", "port"),
    [
        pytest.param("ftp", "coordinator.example", None, id="no default port"),
        pytest.param("wss", "", None, id="no host"),
        pytest.param("wss", "[]", 443, id="only brackets"),
        pytest.param("wss", "bücher.example", None, id="not ASCII"),
    ],
)
def test_an_invalid_address_has_no_authority(scheme: str, host: str, port: int | None) -> None:
    with pytest.raises(ValueError, match=r"host|port"):
        canonical_authority(scheme, host, port)


@pytest.mark.parametrize("vector", VECTORS.signatures, ids=lambda vector: vector.authority)
def test_keys_and_signatures_match_the_vector(vector: SignatureVector) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vector.seed))
    signed = signed_bytes(vector.authority, bytes.fromhex(vector.nonce))

    assert key.public_key().public_bytes_raw().hex() == vector.public_key
    assert signed.hex() == vector.signed_bytes
    assert key.sign(signed).hex() == vector.signature


def test_signed_bytes_are_context_authority_zero_byte_and_nonce() -> None:
    assert signed_bytes(AUTHORITY, NONCE) == (
        b"provider-agent.v1 hello\x00" + b"coordinator.example:443" + b"\x00" + NONCE
    )


def test_a_signature_over_the_dialed_authority_is_accepted() -> None:
    assert verify_signature(PUBLIC_KEY, SIGNATURE, AUTHORITY, NONCE)


@pytest.mark.parametrize(
    ("public_key", "signature", "authority", "nonce"),
    [
        pytest.param(PUBLIC_KEY, SIGNATURE, "evil.example:443", NONCE, id="another host"),
        pytest.param(PUBLIC_KEY, SIGNATURE, "coordinator.example:80", NONCE, id="another port"),
        pytest.param(PUBLIC_KEY, SIGNATURE, AUTHORITY, bytes(32), id="another nonce"),
        pytest.param(PUBLIC_KEY, bytes(64), AUTHORITY, NONCE, id="64 zero bytes"),
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
