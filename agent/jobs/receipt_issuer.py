"""Issues the receipts of ended jobs, if the coordinator negotiated them."""

from collections.abc import Callable, Collection

from provider_agent.protocol.frames import JobHeader, Receipt, Usage
from provider_agent.protocol.receipts import FEATURE, ReceiptContent


class ReceiptIssuer:
    """Issues receipts with the agent's key.

    A job has a receipt if the feature was active when its header arrived, whatever later links
    negotiate: its response must be hashed from the first byte on.

    Args:
        sign: returns the Ed25519 signature of the given bytes.
        always_hash: whether all responses are hashed, also without receipts: for the ledger.

    Attributes:
        active: whether the current, or the last, connection negotiated receipts.
    """

    def __init__(self, sign: Callable[[bytes], bytes], *, always_hash: bool = False) -> None:
        self.active = False
        self._sign = sign
        self._always_hash = always_hash

    def __repr__(self) -> str:
        return f"<ReceiptIssuer active={self.active}>"

    @property
    def hashes(self) -> bool:
        """Whether the response of a job that arrives now is hashed."""
        return self.active or self._always_hash

    def negotiated(self, features: Collection[str]) -> None:
        """Set `active` from the features of a new connection."""
        self.active = FEATURE in features

    def issue(self, job: JobHeader, sha256: bytes, usage: Usage) -> Receipt:
        """Return the receipt of a job's end; it is signed if the job asks for that."""
        content = ReceiptContent(
            job.job_id, job.model_id, sha256, usage.input_tokens, usage.output_tokens
        )
        signature = self._sign(content.signed_bytes()) if job.sign_receipt else None
        return Receipt(sha256, signature)
