"""Checks the receipt of a job's end against the bytes that arrived."""

import base64

from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.event_log import EventLogger
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import JobEnd, JobError
from provider_agent.protocol.job import Job
from provider_agent.protocol.receipts import ReceiptContent

log = EventLogger(__name__)


def check_receipt(job: RunningJob, end: JobEnd, public_key: bytes) -> JobEnd:
    """Return `end`, or a `JobError` in its place if its receipt is not valid.

    The log keeps each signed receipt, with all that the signature covers, for a dispute.

    Args:
        job: the job that has ended; if its `sha256` is None, no receipt is expected.
        end: the end as it arrived.
        public_key: the agent's public key.
    """
    if job.sha256 is None:
        return end
    problem = _problem(job.job, end, job.sha256, public_key)
    fields = {
        "agent": base64.b64encode(public_key).decode(),
        "job": job.job_id.hex(),
        "model": job.job.model_id,
    }
    if problem:
        log.error("receipt not valid", **fields, reason=problem)
        return _reject(end, problem)
    if end.receipt is not None and end.receipt.signature is not None:
        log.info(
            "receipt",
            **fields,
            sha256=end.receipt.sha256.hex(),
            input_tokens=end.usage.input_tokens,
            output_tokens=end.usage.output_tokens,
            signature=end.receipt.signature.hex(),
        )
    return end


def _problem(job: Job, end: JobEnd, sha256: bytes, public_key: bytes) -> str:
    """Return why the receipt of `end` is not valid; "" if it is."""
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


def _reject(end: JobEnd, problem: str) -> JobError:
    """Return the end of a job whose response, or usage, cannot be trusted."""
    if isinstance(end, JobError):
        return end  # the client receives an error anyway
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
