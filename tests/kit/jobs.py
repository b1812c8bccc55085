"""Creates jobs as a coordinator sends them."""

from itertools import count

from provider_agent.agent.jobs.running import Jobs
from provider_agent.protocol.frames import RequestChunk
from provider_agent.protocol.job import Job

_NUMBERS = count(1)

REQUEST = b'{"messages":[{"role":"user","content":"one two"}],"stream":true}'


def new_job(
    model_id: str = "m",
    *,
    wire_format: str = "openai",
    operation: str = "",
    request: bytes = REQUEST,
    deadline_ms: int = 60_000,
    job_id: bytes | None = None,
) -> Job:
    """Create a job with a unique id."""
    return Job(
        job_id=job_id or next(_NUMBERS).to_bytes(16, "big"),
        model_id=model_id,
        format=wire_format,
        request=request,
        deadline_ms=deadline_ms,
        operation=operation,
    )


def submit_job(jobs: Jobs, job: Job) -> None:
    """Submit a job to the agent: its header, then its whole request."""
    jobs.submit(job.header)
    if job.request:
        jobs.receive_request(RequestChunk(job.job_id, 0, job.request))
