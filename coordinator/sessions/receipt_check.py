"""Checks the receipt of a job's end against the bytes that arrived. Pure."""

from msgspec.structs import replace

from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import JobEnd, JobError
from provider_agent.protocol.job import Job
from provider_agent.protocol.receipts import ReceiptContent


def receipt_problem(job: Job, end: JobEnd, sha256: bytes, public_key: bytes) -> str:
    """Return why the receipt of `end` is not valid; "" if it is.

    Args:
        job: as it was sent to the agent.
        end: as it arrived.
        sha256: of the response bytes that arrived.
        public_key: the agent's.
    """
    receipt = end.receipt
    if receipt is None:
        return "the end has no receipt"
    if receipt.sha256 != sha256:
        return "the hash is not that of the bytes that arrived"
    if not job.sign_receipt:
        return ""
    content = ReceiptContent(
        job.job_id, job.model_id, sha256, end.usage.input_tokens, end.usage.output_tokens
    )
    if receipt.signature is None or not content.is_signed_by(public_key, receipt.signature):
        return "the signature is missing or invalid"
    return ""


def reject_end(end: JobEnd, problem: str) -> JobError:
    """Return the end of a job whose receipt is not valid: its response cannot be trusted."""
    if isinstance(end, JobError):
        return replace(end, receipt=None)
    return JobError(
        job_id=end.job_id,
        total_bytes=end.total_bytes,
        code=ErrorCode.INVALID_RESPONSE.value,
        message=f"The provider's receipt is not valid: {problem}.",
        retryable=True,
        usage=end.usage,
        backend_id=end.backend_id,
        duration_ms=end.duration_ms,
        first_byte_ms=end.first_byte_ms,
    )
