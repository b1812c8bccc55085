import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from provider_agent.protocol.limits import MAX_INTEGER
from provider_agent.protocol.receipts import ReceiptContent
from tests.unit.protocol.vectors import VECTORS, ReceiptVector

SEED = bytes.fromhex(VECTORS.receipts[0].seed)
PUBLIC_KEY = bytes.fromhex(VECTORS.receipts[0].public_key)
KEY = Ed25519PrivateKey.from_private_bytes(SEED)
CONTENT = ReceiptContent(bytes(range(16)), "acme-8b", hashlib.sha256(b"words").digest(), 21, None)


def test_signed_bytes_are_context_job_hash_counts_and_model() -> None:
    assert CONTENT.signed_bytes() == (
        b"provider-agent.v1 receipt\x00"
        + bytes(range(16))
        + hashlib.sha256(b"words").digest()
        + b"\x00\x00\x00\x00\x00\x00\x00\x15"
        + b"\xff" * 8
        + b"acme-8b"
    )


@pytest.mark.parametrize("vector", VECTORS.receipts, ids=lambda vector: vector.model_id)
def test_hashes_and_signatures_match_the_vector(vector: ReceiptVector) -> None:
    content = ReceiptContent(
        bytes.fromhex(vector.job_id),
        vector.model_id,
        hashlib.sha256(bytes.fromhex(vector.response)).digest(),
        vector.input_tokens,
        vector.output_tokens,
    )

    assert content.sha256.hex() == vector.sha256
    assert content.signed_bytes().hex() == vector.signed_bytes
    assert KEY.sign(content.signed_bytes()).hex() == vector.signature


COUNTS = st.none() | st.integers(0, MAX_INTEGER)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "job_id": st.binary(min_size=16, max_size=16),
        "model_id": st.text(max_size=9),
        "sha256": st.binary(min_size=32, max_size=32),
        "input_tokens": COUNTS,
        "output_tokens": COUNTS,
    },
)


@given(CHANGES)
def test_signature_covers_every_field(changes: dict[str, object]) -> None:
    changed = replace(CONTENT, **changes)
    signature = KEY.sign(CONTENT.signed_bytes())

    assert changed.is_signed_by(PUBLIC_KEY, signature) == (changed == CONTENT)


@pytest.mark.parametrize(
    ("public_key", "signature"),
    [
        pytest.param(SEED, KEY.sign(CONTENT.signed_bytes()), id="another key"),
        pytest.param(b"short", KEY.sign(CONTENT.signed_bytes()), id="not a key"),
        pytest.param(PUBLIC_KEY, b"", id="no signature"),
        pytest.param(PUBLIC_KEY, bytes(64), id="not a signature"),
    ],
)
def test_invalid_signature_is_rejected(public_key: bytes, signature: bytes) -> None:
    assert not CONTENT.is_signed_by(public_key, signature)
