"""Checks signatures of Ed25519 keys that a peer chose."""

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_PRIME: Final = 2**255 - 19

_ORDER_8: Final = 0x5FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
"""The y coordinate of two of the four points of order 8; the other two have its negative."""

_SMALL_ORDER: Final = frozenset({0, 1, _PRIME - 1, _ORDER_8, _PRIME - _ORDER_8})
"""The y coordinates of all points whose order divides 8."""


def is_valid_signature(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the owner of `public_key` signed this message.

    False for a key of small order: it has no owner. OpenSSL accepts for it, and for every eighth
    message or more, a signature that needs no private key.
    """
    if _has_small_order(public_key):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _has_small_order(public_key: bytes) -> bool:
    """Whether a key is a point whose order divides 8, in any encoding (RFC 8032, section 5.1.2)."""
    y = int.from_bytes(public_key, "little") & (2**255 - 1)  # the highest bit is the sign of x
    return y % _PRIME in _SMALL_ORDER
