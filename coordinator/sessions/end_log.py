"""Logs each job's end and usage, also of cancelled jobs, which cost the operator money too."""

from provider_agent.event_log import EventLogger
from provider_agent.protocol.frames import JobEnd, JobError

log = EventLogger(__name__)


def log_end(end: JobEnd, agent: str, *, abandoned: bool) -> None:
    """Log the end of a job.

    Args:
        end: the end as it arrived.
        agent: the name of the agent that ran the job.
        abandoned: whether no request waited for the end any more: the client had disconnected, the
            deadline had passed, or the response was unusable.
    """
    log.info(
        "job ended",
        agent=agent,
        job=end.job_id.hex(),
        code=end.code if isinstance(end, JobError) else "ok",
        abandoned=abandoned,
        bytes=end.total_bytes,
        input_tokens=end.usage.input_tokens,
        output_tokens=end.usage.output_tokens,
        duration_ms=end.duration_ms,
    )
