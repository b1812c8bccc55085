"""The signature that proves an agent's identity.

It covers a context string, the authority (host and port) that the agent dialed and the
coordinator's nonce. A host that relays another coordinator's challenge receives a signature that
names the relaying host, which the other coordinator rejects. The private key is not used here.
"""

from typing import Final

from provider_agent.protocol.ed25519 import is_valid_signature

CONTEXT: Final = b"provider-agent.v1 hello\x00"
"""Domain separation: the signature is not valid in another protocol that uses the same key."""

_DEFAULT_PORT: Final = {"ws": 80, "http": 80, "wss": 443, "https": 443}


def canonical_authority(scheme: str, host: str, port: int | None) -> str:
    """Return the authority in its signed form: lower case `host:port`, always with the port.

    A trailing dot of the host is removed. An IPv6 address is in brackets, as in a URL. An
    international name must be in its ASCII form (`xn--…`), so that both sides use the same bytes
    whatever their version of IDNA.

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
    """Return the bytes that `Hello.signature` signs: context, authority, a zero byte, nonce.

    An authority contains no zero byte, so no two pairs of authority and nonce share these bytes.
    """
    return CONTEXT + authority.encode() + b"\x00" + nonce


def verify_signature(public_key: bytes, signature: bytes, authority: str, nonce: bytes) -> bool:
    """Whether the owner of `public_key` signed this nonce for this authority."""
    return is_valid_signature(public_key, signature, signed_bytes(authority, nonce))
