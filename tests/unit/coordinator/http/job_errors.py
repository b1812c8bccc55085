"""Errors of agents."""

from provider_agent.protocol.frames import JobError


def job_error(
    code: str,
    upstream_status: int | None = None,
    *,
    retryable: bool = False,
    retry_after_ms: int | None = None,
    body: bytes = b"",
) -> JobError:
    return JobError(bytes(16), 0, code, "why", upstream_status, retryable, retry_after_ms, body)
