"""Our frames as messages of the agent; for offers, see `offers`."""

from datetime import UTC, datetime

import msgspec

from provider_agent.protocol.errors import LastError
from provider_agent.protocol.field_values import to_text
from provider_agent.protocol.frames import Heartbeat, Hello, JobError, JobResult
from provider_agent.protocol.usepod import messages
from provider_agent.protocol.usepod.error_codes import wire_code
from provider_agent.protocol.usepod.server_errors import message_of


def auth_response(hello: Hello) -> messages.AuthResponse:
    """Return the answer to the challenge; without a code, it has no such field."""
    return messages.AuthResponse(
        pubkey=hello.public_key,
        signature=hello.signature,
        agent_version=hello.agent_version,
        enrollment_code=hello.enrollment_code or msgspec.UNSET,
    )


def heartbeat(beat: Heartbeat, error: LastError | None) -> messages.AgentHeartbeat:
    """Return the load, with 0 for what was not measured; `error` is the last one."""
    return messages.AgentHeartbeat(
        queue_depth=beat.queued,
        tokens_per_sec_p50=_speed_of_a_job(beat),
        p50_latency_ms=round(beat.first_byte_p50_ms or 0),
        p95_latency_ms=round(beat.first_byte_p95_ms or 0),
        error_rate_60s=beat.error_rate or 0.0,
        last_error_at=None if error is None else datetime.fromtimestamp(int(error.at), UTC),
        last_error_code=None if error is None else wire_code(error.code),
    )


def _speed_of_a_job(beat: Heartbeat) -> float:
    """Return the median of the models' speeds; 0 if none is measured.

    Not `tokens_per_second`, the throughput of all jobs: an agent with few jobs would seem slow.
    """
    loads = [load.decode_tokens_per_second for one in beat.backends for load in one.models]
    speeds = sorted(speed for speed in loads if speed is not None)
    return speeds[(len(speeds) - 1) // 2] if speeds else 0.0


def job_done(text: str, end: JobResult) -> messages.JobDone:
    """Return the end of the job with the id `text`; an unknown count is 0."""
    used = end.usage
    counts = used.input_tokens or 0, used.output_tokens or 0
    return messages.JobDone(text, messages.Tokens(*counts, *counts), end.duration_ms)


def job_failed(text: str, end: JobError) -> messages.JobFailed:
    """Return the end of the job with the id `text`; the server's error body is in its message."""
    body = end.body.decode(errors="replace")
    if (end.upstream_status or 0) >= 400:
        message = message_of(end.upstream_status or 0, body or end.message)
    else:
        message = f"{end.message}: {body}" if body else end.message
    return messages.JobFailed(text, wire_code(end.code), to_text(message), end.total_bytes)
