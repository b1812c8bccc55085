"""The spans of one ended job: the job, its queue, and its attempts.

::

    job                     from its arrival to its end; child of the span in its `traceparent`
    ├── queue               from its arrival until its request is complete
    └── chat MODEL          one for each attempt, with the event `first_byte`

Names of attributes follow the semantic conventions for generative AI of OpenTelemetry, as of
version 1.41; they are called `provider_agent.…` where these have no name. No attribute contains a
prompt, a response, a key, or a message of a server, which may quote one.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from provider_agent.agent.jobs.job_log import outcome
from provider_agent.agent.jobs.job_record import JobRecord
from provider_agent.agent.jobs.timeline import AttemptTimes, JobTimeline
from provider_agent.protocol.errors import ErrorCode, Fault, entry_for
from provider_agent.protocol.field_values import to_line
from provider_agent.protocol.formats import Operation, find_operation
from provider_agent.protocol.frames import JobError, JobHeader, Usage

Attributes = dict[str, str | int | float | bool]

MAX_MODEL_CHARS: Final = 256
"""The longest model in a name or attribute: a request chooses it."""

FIRST_BYTE: Final = "first_byte"
"""The event of an attempt whose response has started."""

_OPERATIONS: Final[Mapping[Operation | None, str]] = {
    Operation.CHAT: "chat",
    Operation.RESPONSES: "chat",
    Operation.MESSAGES: "chat",
    Operation.COMPLETIONS: "text_completion",
    Operation.EMBEDDINGS: "embeddings",
}
"""`gen_ai.operation.name`. It has no value for counting tokens."""


class JobSpan(Struct, frozen=True):
    """One span.

    Attributes:
        name: its name.
        start_ns: when it began, in nanoseconds since 1970.
        end_ns: when it ended.
        attributes: its attributes.
        is_client: whether it is a request to a server.
        error: the code of the error that the span's status shows; "" for none.
        first_byte_ns: when the response started; None without one.
    """

    name: str
    start_ns: int
    end_ns: int
    attributes: Attributes
    is_client: bool = False
    error: str = ""
    first_byte_ns: int | None = None


def job_spans(record: JobRecord, timeline: JobTimeline) -> list[JobSpan]:
    """Return the spans of an ended job; the first one is the parent of the others."""
    spans = [_job_span(record, timeline)]
    if timeline.request_s is not None:
        start_ns = timeline.arrived_ns
        spans.append(JobSpan("queue", start_ns, start_ns + _ns(timeline.request_s), {}))
        spans += [
            _attempt_span(record, timeline, attempt, is_last=attempt is timeline.attempts[-1])
            for attempt in timeline.attempts
        ]
    return spans


def _job_span(record: JobRecord, timeline: JobTimeline) -> JobSpan:
    header, end = timeline.header, record.end
    attributes: Attributes = {
        "provider_agent.job.id": header.job_id.hex(),
        "provider_agent.job.outcome": outcome(end, record.refusal),
        "provider_agent.job.attempts": record.attempts,
        "provider_agent.response.bytes": end.total_bytes,
    }
    if record.model_id:
        attributes["gen_ai.operation.name"] = _operation(header)
        attributes["gen_ai.request.model"] = _model(header)
    if record.refusal is not None:
        attributes["provider_agent.job.refusal"] = str(record.refusal)
    error = ""
    if isinstance(end, JobError):
        attributes["error.type"] = str(end.code)
        # As for servers of HTTP: a mistake of the client is not an error of the server's span.
        error = "" if entry_for(end.code).fault is Fault.CLIENT else str(end.code)
    start_ns = timeline.arrived_ns
    end_ns = start_ns + _ns(timeline.ended_s)
    return JobSpan("job", start_ns, end_ns, attributes, error=error)


def _attempt_span(
    record: JobRecord, timeline: JobTimeline, attempt: AttemptTimes, *, is_last: bool
) -> JobSpan:
    header, end = timeline.header, record.end
    operation = _operation(header)
    attributes: Attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": attempt.kind,
        "gen_ai.request.model": _model(header),
        "provider_agent.backend.id": to_line(attempt.backend_id),
        **_server(attempt),
    }
    code = attempt.code
    if is_last:
        attributes |= _usage(end.usage)
        if record.streamed:
            attributes["gen_ai.request.stream"] = True
            if attempt.first_byte_s is not None:
                seconds = attempt.first_byte_s - attempt.started_s
                attributes["gen_ai.response.time_to_first_chunk"] = seconds
        if isinstance(end, JobError):
            code = code or str(end.code)
            if end.upstream_status is not None:
                attributes["http.response.status_code"] = end.upstream_status
    if code:
        attributes["error.type"] = code
    start_ns = timeline.arrived_ns
    ended_s = timeline.ended_s if attempt.ended_s is None else attempt.ended_s
    first_byte_s = attempt.first_byte_s
    return JobSpan(
        f"{operation} {_model(header)}",
        start_ns + _ns(attempt.started_s),
        start_ns + _ns(ended_s),
        attributes,
        is_client=True,
        error="" if code == ErrorCode.CANCELLED else code,
        first_byte_ns=None if first_byte_s is None else start_ns + _ns(first_byte_s),
    )


def _usage(usage: Usage) -> Attributes:
    counts = {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }
    return {name: count for name, count in counts.items() if count is not None}


def _server(attempt: AttemptTimes) -> Attributes:
    """Return host and port of a local server; the id of a passthrough has no address."""
    url = attempt.backend_id.removeprefix(f"{attempt.kind}:")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return {}
    if not host:
        return {}
    default_port = 443 if parts.scheme == "https" else 80
    return {"server.address": to_line(host), "server.port": port or default_port}


def _operation(header: JobHeader) -> str:
    found = find_operation(header.format, header.operation)
    return _OPERATIONS.get(found) or (found.value if found else "unknown")


def _model(header: JobHeader) -> str:
    return to_line(header.model_id, MAX_MODEL_CHARS)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
