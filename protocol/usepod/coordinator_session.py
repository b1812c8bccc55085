"""The coordinator's half of the handshake: a nonce that agents sign as it is."""

from collections.abc import Callable
from typing import Final

from provider_agent.protocol.ed25519 import is_valid_signature
from provider_agent.protocol.frames import Hello
from provider_agent.protocol.usepod.session import OWN_CONTEXT

NONCE_BYTES: Final = 32


def new_nonce(random_bytes: Callable[[int], bytes]) -> bytes:
    """Return a nonce that is not the beginning of anything else that our agents sign."""
    while (nonce := random_bytes(NONCE_BYTES)).startswith(OWN_CONTEXT):
        pass
    return nonce


def is_signed(hello: Hello, nonce: bytes) -> bool:
    """Whether the owner of the public key signed the bare nonce."""
    return is_valid_signature(hello.public_key, hello.signature, nonce)
