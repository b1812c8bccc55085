"""Creates the end of a job, within the limits of its frame. Pure.

A number or text outside these limits would make the coordinator close the link, which all jobs
share.
"""

import math
from typing import Final

from msgspec import structs

from provider_agent.adapters.base import BackendError, BadStatus
from provider_agent.agent.backends.failover import may_be_retried
from provider_agent.agent.backends.routing import Refusal
from provider_agent.protocol.counts import valid_count
from provider_agent.protocol.errors import ErrorCode, entry_for
from provider_agent.protocol.frames import JobError, JobResult, Usage
from provider_agent.protocol.limits import MAX_ERROR_BODY_BYTES, MAX_TEXT_CHARS

MAX_RETRY_AFTER_S: Final = 86_400.0
"""The longest wait in an end: one day. A server that asks for more is assumed to be wrong."""


def error_end(job_id: bytes, total_bytes: int, code: ErrorCode, message: str) -> JobError:
    """Create the end of a job that failed after `total_bytes` of its response were relayed."""
    return JobError(
        job_id=job_id,
        total_bytes=total_bytes,
        code=code,
        message=message[:MAX_TEXT_CHARS],
        retryable=entry_for(code).retryable,
    )


def refusal_end(job_id: bytes, refusal: Refusal) -> JobError:
    """Create the end of a job that the agent refused."""
    end = error_end(job_id, 0, refusal.code, refusal.message)
    return structs.replace(end, retry_after_ms=_milliseconds(refusal.retry_after_s))


def backend_error_end(job_id: bytes, total_bytes: int, error: BackendError) -> JobError:
    """Create the end of a job that failed with a backend's error."""
    status = error.status if isinstance(error, BadStatus) else None
    return JobError(
        job_id=job_id,
        total_bytes=total_bytes,
        code=error.code,
        message=str(error)[:MAX_TEXT_CHARS],
        upstream_status=status if status is not None and 100 <= status <= 599 else None,
        retryable=may_be_retried(error),
        retry_after_ms=_milliseconds(error.retry_after_s),
        body=error.body[:MAX_ERROR_BODY_BYTES],
    )


def validate_result(job_id: bytes, total_bytes: int, result: JobResult) -> JobResult:
    """Return an adapter's result with each invalid count replaced: by None, the duration by 0.

    Raises:
        ValueError: the result's job id or number of bytes is wrong.
    """
    if result.job_id != job_id or result.total_bytes != total_bytes:
        raise ValueError("the adapter's result does not match what it relayed")
    return structs.replace(
        result,
        usage=Usage(*map(valid_count, structs.astuple(result.usage))),
        duration_ms=valid_count(result.duration_ms) or 0,
        first_byte_ms=valid_count(result.first_byte_ms),
    )


def count_from_arrival(result: JobResult, earlier_s: float) -> JobResult:
    """Return the result with times that count from the job's arrival, not from its last attempt.

    Args:
        result: of the last attempt.
        earlier_s: seconds between the job's arrival and the start of that attempt.
    """
    earlier_ms = round(earlier_s * 1000)
    first = result.first_byte_ms
    return structs.replace(
        result,
        duration_ms=result.duration_ms + earlier_ms,
        first_byte_ms=None if first is None else first + earlier_ms,
    )


def usage_tokens(result: JobResult) -> int:
    """Return the sum of input and output tokens; an unknown count is 0."""
    return (result.usage.input_tokens or 0) + (result.usage.output_tokens or 0)


def _milliseconds(seconds: float | None) -> int | None:
    """Return a wait in milliseconds, at most one day; None if it is unknown or not finite."""
    if seconds is None or not math.isfinite(seconds):
        return None
    return round(min(max(seconds, 0.0), MAX_RETRY_AFTER_S) * 1000)
