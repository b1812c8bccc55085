"""Every frame of protocol version 1.

A frame travels as the MessagePack array `[type, field, …]` in the order of its attributes here. New
fields are only ever appended, with a default; a reader ignores trailing fields it does not know.
Types 1–31 come from the coordinator, 33–63 from the agent.

Names that a newer peer may extend (`format`, `operation`, error codes) are plain strings here: an
unknown one is a job to refuse, not a reason to close the connection.
"""

from typing import Annotated

from msgspec import Meta, Struct

from provider_agent.protocol.limits import (
    MAX_DEADLINE_MS,
    MAX_ERROR_BODY_BYTES,
    MAX_INTEGER,
    MAX_LIVE_JOBS,
    MAX_MODELS,
    MAX_NAME_CHARS,
    MAX_REQUEST_BYTES,
    MAX_TEXT_CHARS,
)

JobId = Annotated[bytes, Meta(min_length=16, max_length=16)]
"""A UUID in its 16 bytes; chosen by the coordinator, never used twice."""

Name = Annotated[str, Meta(max_length=MAX_NAME_CHARS)]
Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]
Count = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Milliseconds = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Offset = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]


# --- from the coordinator -------------------------------------------------------------------------


class Challenge(Struct, tag=1, array_like=True, frozen=True):
    """The coordinator's first frame: prove that you own your key.

    Attributes:
        nonce: 32 random bytes, used once.
        coordinator: the coordinator's name, for logs.
    """

    nonce: Annotated[bytes, Meta(min_length=32, max_length=32)]
    coordinator: Name


class Welcome(Struct, tag=2, array_like=True, frozen=True):
    """The agent is connected.

    Attributes:
        provider_id: who the coordinator takes this key to be.
        session_id: 16 bytes; offered again in `Hello` to resume.
        heartbeat_ms: how often the agent reports.
        resume_ms: how long the coordinator keeps its side after a lost link; 0: not at all.
        window_bytes: how much of each job's response may be unacknowledged.
        max_message_bytes: the biggest message the coordinator accepts.
        resumed: for each live job of `Hello` that goes on, the offset to continue from; the agent
            cancels the others.
    """

    provider_id: Name
    session_id: JobId
    heartbeat_ms: Annotated[int, Meta(ge=100, le=3_600_000)]
    resume_ms: Milliseconds
    window_bytes: Count
    max_message_bytes: Count
    resumed: Annotated[dict[JobId, Offset], Meta(max_length=MAX_LIVE_JOBS)] = {}


class Rejected(Struct, tag=3, array_like=True, frozen=True):
    """The agent is not wanted; the coordinator closes the connection after this frame.

    Attributes:
        code: `bad_signature`, `not_enrolled`, `too_many_connections` or another short name.
        message: for the operator.
        retry_after_ms: when to try again; None: trying again with the same key and code is useless.
    """

    code: Name
    message: Text
    retry_after_ms: Milliseconds | None = None


class Job(Struct, tag=4, array_like=True, frozen=True):
    """One request to run.

    Attributes:
        job_id: chosen by the coordinator; a job that arrives twice runs once.
        model_id: as the agent advertised it.
        format: a `WireFormat`.
        request: one JSON object, as the client sent it.
        deadline_ms: how long the whole job may take from its arrival at the agent.
        operation: an `Operation`; "" is the format's main one.
        traceparent: W3C Trace Context to hand on to the server; "" for none.
    """

    job_id: JobId
    model_id: Name
    format: Name
    request: Annotated[bytes, Meta(max_length=MAX_REQUEST_BYTES)]
    deadline_ms: Annotated[int, Meta(ge=0, le=MAX_DEADLINE_MS)]
    operation: Name = ""
    traceparent: Name = ""


class Cancel(Struct, tag=5, array_like=True, frozen=True):
    """Stop a job: the agent closes its upstream request and ends the job with `cancelled`.

    Attributes:
        job_id: which job; an unknown one is ignored, its end may have crossed this frame.
        reason: for logs.
    """

    job_id: JobId
    reason: Text = ""


class Ack(Struct, tag=6, array_like=True, frozen=True):
    """The coordinator has passed on part of a response.

    Attributes:
        job_id: which job; an unknown one is ignored.
        offset: every byte before it is safe; the agent forgets those and may send as many more.
        final: the end frame is safe too; the agent forgets the job.
    """

    job_id: JobId
    offset: Offset
    final: bool = False


class Drain(Struct, tag=7, array_like=True, frozen=True):
    """The coordinator is going away: finish the running jobs, then reconnect.

    Attributes:
        reason: for logs.
        reconnect_after_ms: when to dial again after the last job ended.
    """

    reason: Text = ""
    reconnect_after_ms: Milliseconds = 0


# --- from the agent -------------------------------------------------------------------------------


class LiveJob(Struct, array_like=True, frozen=True):
    """A job that the agent still holds when it reconnects.

    Attributes:
        job_id: which job.
        first_offset: the oldest byte it can still send.
        next_offset: one past the newest byte it has sent; the coordinator cannot have more.
    """

    job_id: JobId
    first_offset: Offset
    next_offset: Offset


class Hello(Struct, tag=33, array_like=True, frozen=True):
    """The agent's answer to `Challenge`.

    Attributes:
        agent_version: of the software, for logs.
        public_key: Ed25519, 32 raw bytes: the agent's identity.
        signature: over `auth.signed_bytes(authority, nonce)`.
        enrollment_code: what the operator was given; "" when the key is known already.
        instance_id: changes with each start of the process.
        session_id: the session to resume, or None.
        live_jobs: what the agent still holds of that session.
    """

    agent_version: Name
    public_key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]
    enrollment_code: Name = ""
    instance_id: Name = ""
    session_id: JobId | None = None
    live_jobs: Annotated[list[LiveJob], Meta(max_length=MAX_LIVE_JOBS)] = []


class ModelOffer(Struct, array_like=True, frozen=True):
    """One model that the agent serves.

    Attributes:
        model_id: what jobs call it.
        formats: the wire formats natively spoken for it.
        operations: the operations natively spoken for it.
        context_window: effective, in tokens; None when the server does not tell.
        native: True for the operator's own hardware, False for a remote passthrough.
        backend_kind: "vllm", "llamacpp", …
        max_concurrent: how many jobs for it may run at once.
        input_price_per_1m: millionths of a US dollar per million input tokens; None: not priced.
        output_price_per_1m: the same for output tokens.
    """

    model_id: Name
    formats: Annotated[list[Name], Meta(max_length=16)]
    operations: Annotated[list[Name], Meta(max_length=64)]
    context_window: Count | None
    native: bool
    backend_kind: Name
    max_concurrent: Count
    input_price_per_1m: Count | None = None
    output_price_per_1m: Count | None = None


class AgentLimits(Struct, array_like=True, frozen=True):
    """What the whole agent takes on.

    Attributes:
        max_concurrent: jobs at once, all models together.
        max_tokens_per_minute: the operator's limit; None: no limit.
    """

    max_concurrent: Count
    max_tokens_per_minute: Count | None = None


class Capabilities(Struct, tag=34, array_like=True, frozen=True):
    """What the agent can do now; replaces what it said before.

    Attributes:
        revision: grows with every change within one process.
        models: what it serves.
        limits: what it takes on.
        metadata: what the operator says of the machine (display name, wallet, …), for people.
    """

    revision: Count
    models: Annotated[list[ModelOffer], Meta(max_length=MAX_MODELS)]
    limits: AgentLimits
    metadata: Annotated[dict[Name, Text], Meta(max_length=64)] = {}


class BackendLoad(Struct, array_like=True, frozen=True):
    """One backend's share of a heartbeat.

    Attributes:
        backend_id: `<kind>:<url>` or `<kind>`.
        healthy: whether its last check succeeded.
        in_flight: jobs of this agent on it now.
        capacity: jobs of this agent it takes at once.
        running: requests of anybody that the server works on; None: it does not tell.
        waiting: requests of anybody in the server's queue; None: it does not tell.
    """

    backend_id: Name
    healthy: bool
    in_flight: Count
    capacity: Count
    running: Count | None = None
    waiting: Count | None = None


class Heartbeat(Struct, tag=35, array_like=True, frozen=True):
    """How the agent does. Rates look at the last 60 seconds; None: nothing to measure in them.

    Attributes:
        in_flight: jobs running now.
        queued: those of them that have not had a byte of response yet.
        capacity: jobs it takes at once.
        tokens_per_second: reported output tokens of finished jobs.
        first_byte_p50_ms: median time to the first byte of response.
        first_byte_p95_ms: its 95th percentile.
        error_rate: share of ended jobs (0…1) that failed by the provider's fault.
        backends: the load of each backend.
    """

    in_flight: Count
    queued: Count
    capacity: Count
    tokens_per_second: float | None
    first_byte_p50_ms: float | None
    first_byte_p95_ms: float | None
    error_rate: float | None
    backends: Annotated[list[BackendLoad], Meta(max_length=1024)] = []


class JobStarted(Struct, tag=36, array_like=True, frozen=True):
    """The response has begun; sent once, before the first `Chunk`.

    Attributes:
        job_id: which job.
        status: the server's HTTP status.
        content_type: of the response, for the coordinator's own response.
        backend_id: which backend runs it.
    """

    job_id: JobId
    status: Annotated[int, Meta(ge=100, le=599)]
    content_type: Name
    backend_id: Name


class Chunk(Struct, tag=37, array_like=True, frozen=True, gc=False):
    """A piece of the response, exactly as the server sent it.

    Attributes:
        job_id: which job.
        offset: of its first byte in the response.
        data: at least one byte.
    """

    job_id: JobId
    offset: Offset
    data: bytes


class JobResult(Struct, tag=38, array_like=True, frozen=True):
    """The job succeeded; its last frame.

    Attributes:
        job_id: which job.
        total_bytes: length of the response; all of it has been sent.
        input_tokens: as the server reported; None when it did not, never 0 for unknown.
        output_tokens: the same for the answer.
        duration_ms: from the job's arrival at the agent to its end.
        first_byte_ms: from its arrival to the first byte of response; None: an empty response.
    """

    job_id: JobId
    total_bytes: Count
    input_tokens: Count | None
    output_tokens: Count | None
    duration_ms: Milliseconds
    first_byte_ms: Milliseconds | None


class JobError(Struct, tag=39, array_like=True, frozen=True):
    """The job failed; its last frame.

    Attributes:
        job_id: which job.
        total_bytes: length of what was relayed before it failed.
        code: an `ErrorCode`.
        message: one sentence for people, free of secrets.
        upstream_status: the server's HTTP status, when it answered.
        retryable: whether another provider may be tried with the same job.
        retry_after_ms: when this provider may be tried again, when the server said so.
        body: the beginning of the server's error body, free of secrets.
    """

    job_id: JobId
    total_bytes: Count
    code: Name
    message: Text
    upstream_status: Annotated[int, Meta(ge=100, le=599)] | None = None
    retryable: bool = False
    retry_after_ms: Milliseconds | None = None
    body: Annotated[bytes, Meta(max_length=MAX_ERROR_BODY_BYTES)] = b""


class Draining(Struct, tag=40, array_like=True, frozen=True):
    """The agent is stopping: send no more jobs.

    Attributes:
        deadline_ms: after this time the agent cancels what still runs.
    """

    deadline_ms: Milliseconds


CoordinatorFrame = Challenge | Welcome | Rejected | Job | Cancel | Ack | Drain
AgentFrame = Hello | Capabilities | Heartbeat | JobStarted | Chunk | JobResult | JobError | Draining
JobEnd = JobResult | JobError
"""Every accepted job ends in exactly one of these."""
