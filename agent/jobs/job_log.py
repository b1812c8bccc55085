"""The log fields of a job: ids and numbers, never a prompt or a response."""

import logging

from provider_agent.agent.backends.routing import RefusalReason
from provider_agent.protocol.errors import ErrorCode, Fault, entry_for
from provider_agent.protocol.frames import JobEnd, JobError, JobHeader
from provider_agent.protocol.trace_context import is_traceparent


def job_fields(job: JobHeader, backend_id: str, **more: object) -> dict[str, object]:
    """Return the fields of a log record about a running job."""
    fields = {"job": job.job_id.hex(), "model": job.model_id, "backend": backend_id}
    return {**fields, **more}


def end_level(end: JobEnd, refusal: RefusalReason | None = None) -> int:
    """Return the log level of a job's end: a warning for a failure that no client caused.

    Refusals are part of normal operation; the metrics count them.
    """
    if refusal is not None:
        return logging.INFO
    failed = isinstance(end, JobError) and entry_for(end.code).fault is not Fault.CLIENT
    return logging.WARNING if failed else logging.INFO


def end_fields(
    job: JobHeader,
    kind: str,
    end: JobEnd,
    duration_s: float,
    at_least: int = 0,
    log_message: str = "",
    *,
    attempts: int = 1,
    refusal: RefusalReason | None = None,
) -> dict[str, object]:
    """Return the fields of the log record about a job's end.

    Args:
        job: the job's header.
        kind: the kind of the last backend; "" without one.
        end: the job's end.
        duration_s: seconds since the job arrived.
        at_least: the tokens that count against the operator's limits; logged if the server did not
            report all of them.
        log_message: `BackendError.log_message` of an invalid request.
        attempts: the number of attempts; logged if there were several.
        refusal: why the agent refused the job; None if it did not.
    """
    fields: dict[str, object] = {
        "job": job.job_id.hex(),
        "outcome": outcome(end, refusal),
        "model": job.model_id,
        "format": job.format,
        "operation": job.operation,
        "backend": end.backend_id,
        "kind": kind,
        "bytes": end.total_bytes,
        "duration_ms": round(duration_s * 1000),
        "input_tokens": end.usage.input_tokens,
        "output_tokens": end.usage.output_tokens,
        "first_byte_ms": end.first_byte_ms,
        "input_price_per_1m": end.input_price_per_1m,
        "output_price_per_1m": end.output_price_per_1m,
    }
    if job.traceparent and is_traceparent(job.traceparent):
        fields["traceparent"] = job.traceparent
    if attempts > 1:
        fields["attempts"] = attempts
    for name in ("cached_tokens", "cache_write_tokens", "reasoning_tokens"):
        if (count := getattr(end.usage, name)) is not None:
            fields[name] = count
    if at_least > (end.usage.input_tokens or 0) + (end.usage.output_tokens or 0):
        fields["at_least"] = at_least
    if isinstance(end, JobError):
        fields |= {"code": str(end.code), "status": end.upstream_status}
        if refusal is not None:
            fields["reason"] = str(refusal)
        # A message of the server, or about an invalid request, may quote the prompt; `log_message`
        # does not.
        is_own = end.upstream_status is None and not end.body
        if is_own and end.code != ErrorCode.BAD_REQUEST:
            fields["message"] = end.message
        elif log_message:
            fields["message"] = log_message
    return fields


def outcome(end: JobEnd, refusal: RefusalReason | None) -> str:
    """Return how a job ended: "ok", "failed", "cancelled" or "refused"."""
    if refusal is not None:
        return "refused"
    if isinstance(end, JobError):
        return "cancelled" if end.code == ErrorCode.CANCELLED else "failed"
    return "ok"
