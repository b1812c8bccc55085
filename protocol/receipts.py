"""Receipts: the hash of a response, and the agent's signature over it and the usage.

An optional feature of a connection. The hash shows that the coordinator received what the agent
sent. The signature settles a dispute about usage: it binds the job, the model, the bytes of the
response and the token counts to the agent's key. The private key is not used here.
"""

from typing import Final

from msgspec import Struct

from provider_agent.protocol.ed25519 import is_valid_signature

FEATURE: Final = "receipts"
"""The name of the feature in the handshake."""

CONTEXT: Final = b"provider-agent.v1 receipt\x00"
"""Domain separation from the other signatures of the same key."""

UNKNOWN_COUNT: Final = 2**64 - 1
"""Stands for a token count that the server did not report, in the signed bytes."""


class ReceiptContent(Struct, frozen=True):
    """What the signature of a receipt covers.

    Attributes:
        job_id: the 16 bytes of the job's id.
        model_id: the model id of the job.
        sha256: the hash of all response bytes.
        input_tokens: the count in the job's end; None if unknown.
        output_tokens: the count in the job's end; None if unknown.
    """

    job_id: bytes
    model_id: str
    sha256: bytes
    input_tokens: int | None
    output_tokens: int | None

    def signed_bytes(self) -> bytes:
        """Return the bytes to sign.

        They need no separators: only the last part, the model id, has a variable length.
        """
        counts = (self.input_tokens, self.output_tokens)
        return b"".join(
            (
                CONTEXT,
                self.job_id,
                self.sha256,
                *((UNKNOWN_COUNT if n is None else n).to_bytes(8, "big") for n in counts),
                self.model_id.encode(),
            )
        )

    def is_signed_by(self, public_key: bytes, signature: bytes) -> bool:
        """Whether the owner of `public_key` signed this content."""
        return is_valid_signature(public_key, signature, self.signed_bytes())
