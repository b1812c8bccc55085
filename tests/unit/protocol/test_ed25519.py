import itertools

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis.strategies import binary

from provider_agent.protocol.ed25519 import PrivateKey, is_valid_signature

SEED = bytes(range(32))
KEY = PrivateKey(SEED)
PUBLIC_KEY = KEY.public_key

SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]
"""All points whose order divides 8: of order 1, 2, 4, 4, and 8 four times."""

NOT_CANONICAL = [
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]
"""Other encodings of these points, which OpenSSL accepts."""


@given(seed=binary(min_size=32, max_size=32), message=binary())
def test_key_and_signature_are_those_of_openssl(seed: bytes, message: bytes) -> None:
    key, other = PrivateKey(seed), Ed25519PrivateKey.from_private_bytes(seed)

    assert key.seed == seed
    assert key.public_key == other.public_key().public_bytes_raw()
    assert key.sign(message) == other.sign(message)
    assert is_valid_signature(key.public_key, other.sign(message), message)


def test_new_keys_differ() -> None:
    assert PrivateKey.generate().seed != PrivateKey.generate().seed


def test_repr_does_not_contain_the_seed() -> None:
    assert SEED.hex() not in repr(KEY)
    assert repr(SEED)[2:-1] not in repr(KEY)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_seed_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32"):
        PrivateKey(bytes(size))


@pytest.mark.parametrize("key", [*SMALL_ORDER, *NOT_CANONICAL])
def test_a_key_of_small_order_signs_nothing(key: str) -> None:
    # OpenSSL accepts these keys, and for them signatures that need no private key: one of the
    # eight points and S = 0, for at least an eighth of all messages.
    forged = [bytes.fromhex(point) + bytes(32) for point in SMALL_ORDER]
    messages = [b"message %d" % number for number in range(16)]

    assert not any(
        is_valid_signature(bytes.fromhex(key), signature, message)
        for signature, message in itertools.product(forged, messages)
    )


def test_only_the_signature_of_the_same_key_and_message_is_valid() -> None:
    signature = KEY.sign(b"message")

    assert is_valid_signature(PUBLIC_KEY, signature, b"message")
    assert not is_valid_signature(PUBLIC_KEY, signature, b"another")
    assert not is_valid_signature(PUBLIC_KEY, bytes(64), b"message")
    assert not is_valid_signature(PUBLIC_KEY, signature[:-1], b"message")
    assert not is_valid_signature(PUBLIC_KEY, signature + b"\0", b"message")
    assert not is_valid_signature(PUBLIC_KEY, b"", b"message")
    assert not is_valid_signature(bytes(range(32)), signature, b"message")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_length_signs_nothing(size: int) -> None:
    assert not is_valid_signature(PUBLIC_KEY.ljust(33)[:size], KEY.sign(b"message"), b"message")
