"""How an agent proves that it owns its key.

The signature covers a context string, the authority (host and port) that the agent dialled and the
coordinator's nonce. A coordinator that relays somebody else's challenge gets a signature that names
its own host, which is worthless elsewhere. Signing itself stays with the holder of the private key.
"""

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

CONTEXT: Final = b"provider-agent.v1 hello\x00"
"""Keeps a signature made here from meaning anything elsewhere."""

_DEFAULT_PORT: Final = {"ws": 80, "http": 80, "wss": 443, "https": 443}


def canonical_authority(scheme: str, host: str, port: int | None) -> str:
    """The authority as it is signed: `host:port`, lower case, the port always there.

    An IPv6 address stands in brackets, as in a URL. An international name stands in its ASCII form
    (`xn--…`), so that both sides sign the same bytes without agreeing on a version of IDNA.

    Raises:
        ValueError: the scheme has no default port and none is given, or the host is empty or not
            ASCII.
    """
    bare = host.strip("[]").rstrip(".").lower()
    if not bare:
        raise ValueError("an address without a host")
    if not bare.isascii():
        raise ValueError("a host that is not ASCII; write its xn-- form")
    if port is None:
        if scheme not in _DEFAULT_PORT:
            raise ValueError(f"no default port for {scheme}")
        port = _DEFAULT_PORT[scheme]
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def signed_bytes(authority: str, nonce: bytes) -> bytes:
    """What `Hello.signature` signs: context, authority, a zero byte, nonce.

    A zero byte cannot stand in an authority, so the parts cannot be shifted into each other.
    """
    return CONTEXT + authority.encode() + b"\x00" + nonce


def verify_signature(public_key: bytes, signature: bytes, authority: str, nonce: bytes) -> bool:
    """Whether the owner of `public_key` signed this nonce for this authority."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(
            signature, signed_bytes(authority, nonce)
        )
    except (InvalidSignature, ValueError):
        return False
    return True
