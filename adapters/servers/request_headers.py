"""The headers of requests to a server. Only a valid `traceparent` comes from the client."""

from provider_agent.protocol.job import Job
from provider_agent.protocol.trace_context import is_traceparent


def common_headers(api_key: str | None) -> dict[str, str]:
    """Return the headers of all requests to a server.

    Args:
        api_key: the operator's key; None or "": the server needs none.
    """
    headers = {
        "User-Agent": "provider-agent",
        "Content-Type": "application/json",
        "Accept": "text/event-stream, application/json",
        "Accept-Encoding": "identity",
    }
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    return headers


def job_headers(job: Job) -> dict[str, str]:
    """Return the other headers of a job's request."""
    headers = {"X-Request-Id": job.job_id.hex()}
    if is_traceparent(job.traceparent):
        headers["traceparent"] = job.traceparent
    return headers
