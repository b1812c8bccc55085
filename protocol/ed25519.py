"""Ed25519 keys and signatures (RFC 8032), from libsodium (ADR 25)."""

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey


class PrivateKey:
    """A private key.

    Args:
        seed: the 32 secret bytes that RFC 8032 calls the private key.

    Attributes:
        public_key: 32 bytes.

    Raises:
        ValueError: the seed has another length.
    """

    __slots__ = ("_key", "public_key")

    def __init__(self, seed: bytes) -> None:
        self._key = SigningKey(seed)
        self.public_key = bytes(self._key.verify_key)

    @classmethod
    def generate(cls) -> "PrivateKey":
        """Return a new key, from the random numbers of the operating system."""
        return cls(bytes(SigningKey.generate()))

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes."""
        return bytes(self._key)

    def sign(self, message: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return self._key.sign(message).signature


def is_valid_signature(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the owner of `public_key` signed this message.

    False for a key of small order: it has no owner. libsodium rejects such a key in any encoding.
    """
    try:
        VerifyKey(public_key).verify(message, signature)
    except (BadSignatureError, ValueError):
        return False
    return True
