"""Creates the end of a job, within the limits of its frame.

A number or text outside these limits would make the coordinator close the link, which all jobs
share.
"""

import math
from typing import Any, Final

from msgspec import Struct, structs

from provider_agent.adapters.base import BackendError, BadStatus, ResponseOutcome
from provider_agent.agent.backends.failover import may_be_retried
from provider_agent.agent.backends.pricing import OfferedPrice
from provider_agent.agent.backends.routing import Refusal
from provider_agent.protocol.errors import ErrorCode, entry_for
from provider_agent.protocol.field_values import to_line, to_text, whole_milliseconds
from provider_agent.protocol.frames import JobError, JobResult
from provider_agent.protocol.limits import MAX_ERROR_BODY_BYTES

MAX_RETRY_AFTER_S: Final = 86_400.0
"""The longest wait in an end: one day. A server that asks for more is assumed to be wrong."""


class JobReport(Struct, frozen=True):
    """What every end of a job reports, whether it succeeded or not.

    Attributes:
        job_id: the job.
        total_bytes: the length of the response, or of its part that is sent.
        outcome: what is known about the response.
        backend_id: the backend of the last attempt; "" without an attempt.
        duration_s: seconds from the job's arrival to its end.
        first_byte_s: seconds from the job's arrival to the start of the response; None without one.
        price: the price that was offered when the job arrived.
    """

    job_id: bytes
    total_bytes: int = 0
    outcome: ResponseOutcome = ResponseOutcome()
    backend_id: str = ""
    duration_s: float = 0.0
    first_byte_s: float | None = None
    price: OfferedPrice = OfferedPrice()

    def fields(self) -> dict[str, Any]:
        """Return the fields that both kinds of end have."""
        first_byte_s = self.first_byte_s
        return {
            "job_id": self.job_id,
            "total_bytes": self.total_bytes,
            "usage": self.outcome.usage,
            "backend_id": to_line(self.backend_id),
            "duration_ms": whole_milliseconds(self.duration_s),
            "first_byte_ms": None if first_byte_s is None else whole_milliseconds(first_byte_s),
            "input_price_per_1m": self.price.input_per_1m,
            "output_price_per_1m": self.price.output_per_1m,
        }


def result_end(report: JobReport) -> JobResult:
    """Create the end of a job that succeeded."""
    return JobResult(**report.fields())


def error_end(report: JobReport, code: ErrorCode, message: str) -> JobError:
    """Create the end of a job that failed."""
    return JobError(
        code=code,
        message=to_text(message),
        retryable=entry_for(code).retryable,
        error_relayed=report.outcome.error_relayed,
        between_events=report.outcome.between_events,
        **report.fields(),
    )


def refusal_end(report: JobReport, refusal: Refusal) -> JobError:
    """Create the end of a job that the agent refused."""
    end = error_end(report, refusal.code, refusal.message)
    return structs.replace(end, retry_after_ms=_milliseconds(refusal.retry_after_s))


def backend_error_end(report: JobReport, error: BackendError) -> JobError:
    """Create the end of a job that failed with a backend's error."""
    status = error.status if isinstance(error, BadStatus) else None
    return structs.replace(
        error_end(report, error.code, str(error)),
        upstream_status=status if status is not None and 100 <= status <= 599 else None,
        retryable=may_be_retried(error),
        retry_after_ms=_milliseconds(error.retry_after_s),
        body=bytes(error.body[:MAX_ERROR_BODY_BYTES]),
    )


def used_tokens(outcome: ResponseOutcome) -> int:
    """Return the sum of input and output tokens that count against the operator's limits.

    Where the server does not report a count, this is a lower bound.
    """
    usage = outcome.usage
    used_input = max(usage.input_tokens or 0, outcome.least_input_tokens)
    return used_input + max(usage.output_tokens or 0, outcome.least_output_tokens)


def _milliseconds(seconds: float | None) -> int | None:
    """Return a wait in milliseconds, at most one day; None if it is unknown or not finite."""
    if seconds is None or not math.isfinite(seconds):
        return None
    return whole_milliseconds(min(seconds, MAX_RETRY_AFTER_S))
