"""Every frame of protocol version 1.

A frame is encoded as the MessagePack array `[type, field, …]`, in the order of its attributes here.
New fields are appended, with a default; a reader ignores unknown trailing fields. Types 1–31 are
sent by the coordinator, 33–63 by the agent.

Names that a newer peer may extend (`format`, `operation`, error codes) are plain strings: an
unknown name fails one job, it does not close the connection.
"""

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from provider_agent.protocol.content_repr import ContentRepr
from provider_agent.protocol.limits import (
    MAX_DEADLINE_MS,
    MAX_ERROR_BODY_BYTES,
    MAX_FEATURES,
    MAX_INTEGER,
    MAX_LIVE_JOBS,
    MAX_MODEL_LOADS,
    MAX_MODELS,
    MAX_NAME_CHARS,
    MAX_REQUEST_BYTES,
    MAX_RESPONSE_HEADERS,
    MAX_TEXT_CHARS,
)

JobId = Annotated[bytes, Meta(min_length=16, max_length=16)]
"""The 16 bytes of a UUID, chosen by the coordinator and never reused."""

Name = Annotated[str, Meta(max_length=MAX_NAME_CHARS)]
Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]
Features = Annotated[list[Name], Meta(max_length=MAX_FEATURES)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Milliseconds = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Offset = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]


# --- sent by the coordinator ----------------------------------------------------------------------


class Challenge(Struct, tag=1, array_like=True, frozen=True):
    """The coordinator's first frame: a nonce for the agent to sign.

    Attributes:
        nonce: 32 random bytes, used once.
        coordinator: the coordinator's name, for logs.
        features: the names of optional features that the coordinator supports.
    """

    nonce: Annotated[bytes, Meta(min_length=32, max_length=32)]
    coordinator: Name
    features: Features = []


class ResumedJob(Struct, array_like=True, frozen=True):
    """A job of `Hello.live_jobs` that the coordinator knows.

    Attributes:
        job_id: the job.
        offset: the response byte to continue from; with `ended`, the end's `total_bytes`.
        ended: the coordinator has the whole response and its end; the agent forgets the job.
    """

    job_id: JobId
    offset: Offset
    ended: bool = False


class Welcome(Struct, tag=2, array_like=True, frozen=True):
    """The coordinator admits the agent.

    Attributes:
        provider_id: the coordinator's name for the owner of this key.
        session_id: 16 bytes; the agent names it in a later `Hello` to resume.
        heartbeat_ms: the longest interval between two heartbeats.
        resume_ms: how long the coordinator keeps the session after a lost link; 0: not at all.
        window_bytes: how many bytes of each response may be unacknowledged.
        max_message_bytes: the largest message that the coordinator accepts.
        resumed: each live job of `Hello` that continues or has ended; the agent cancels the others.
        features: the optional features of this connection, of those that both sides support.
    """

    provider_id: Name
    session_id: JobId
    heartbeat_ms: Annotated[int, Meta(ge=100, le=3_600_000)]
    resume_ms: Milliseconds
    window_bytes: Count
    max_message_bytes: Count
    resumed: Annotated[list[ResumedJob], Meta(max_length=MAX_LIVE_JOBS)] = []
    features: Features = []


class Rejected(Struct, tag=3, array_like=True, frozen=True):
    """The coordinator does not admit the agent, and closes the connection after this frame.

    Attributes:
        code: `bad_signature`, `not_enrolled`, `too_many_connections` or another short name.
        message: for the operator.
        retry_after_ms: when to retry; None: never with the same key and enrollment code.
    """

    code: Name
    message: Text
    retry_after_ms: Milliseconds | None = None


class JobHeader(Struct, tag=4, array_like=True, frozen=True):
    """One request to execute; its body follows in `RequestChunk` frames.

    Attributes:
        job_id: chosen by the coordinator; a job that arrives twice runs once.
        model_id: as offered in `ModelOffer.model_id`.
        format: a `WireFormat`.
        request_bytes: the size of the request body.
        deadline_ms: how long the job may take, from the arrival of this frame at the agent.
        operation: an `Operation`; "" means the format's main one.
        traceparent: W3C Trace Context to forward to the server; "" for none.
        add_usage: whether the agent may change the request so that the server reports usage.
        sign_receipt: whether the receipt of the job's end is signed, if receipts are negotiated.
    """

    job_id: JobId
    model_id: Name
    format: Name
    request_bytes: Annotated[int, Meta(ge=0, le=MAX_REQUEST_BYTES)]
    deadline_ms: Annotated[int, Meta(ge=0, le=MAX_DEADLINE_MS)]
    operation: Name = ""
    traceparent: Name = ""
    add_usage: bool = True
    sign_receipt: bool = False


class Cancel(Struct, tag=5, array_like=True, frozen=True):
    """Stop a job: the agent closes its upstream request and ends the job with `cancelled`.

    Attributes:
        job_id: the job; an unknown one is ignored, since its end may have crossed this frame.
        reason: for logs.
    """

    job_id: JobId
    reason: Text = ""


class Ack(Struct, tag=6, array_like=True, frozen=True):
    """The coordinator has passed on a part of a response.

    Attributes:
        job_id: the job; an unknown one is ignored.
        offset: every byte before it was passed on; the agent drops them and may send as many more.
        final: the end frame was processed too; the agent forgets the job.
    """

    job_id: JobId
    offset: Offset
    final: bool = False


class Drain(Struct, tag=7, array_like=True, frozen=True):
    """The coordinator is stopping: the agent finishes its jobs, then reconnects.

    Attributes:
        reason: for logs.
        reconnect_after_ms: how long to wait before reconnecting, after the last job has ended.
    """

    reason: Text = ""
    reconnect_after_ms: Milliseconds = 0


class RequestChunk(ContentRepr, Struct, tag=8, array_like=True, frozen=True, gc=False):
    """A piece of a job's request body.

    Attributes:
        job_id: the job; an unknown one is ignored, since its end may have crossed this frame.
        offset: of the first byte of `data` in the request body.
        data: at least one byte.
    """

    CONTENT: ClassVar[frozenset[str]] = frozenset({"data"})

    job_id: JobId
    offset: Offset
    data: bytes


class Notice(Struct, tag=9, array_like=True, frozen=True):
    """A message of the coordinator to the operator.

    Attributes:
        code: a short name, such as `quota_exceeded`.
        severity: `info`, `warning` or `error`; an unknown one counts as `info`.
        message: human-readable.
        model_id: the model that it concerns; None: the agent as a whole.
    """

    code: Name
    severity: Name
    message: Text
    model_id: Name | None = None


class UnroutableModel(Struct, array_like=True, frozen=True):
    """An offered model for which the coordinator sends no jobs.

    Attributes:
        model_id: as offered.
        code: `price`, `unknown_model`, `quota`, `not_verified`, `capacity` or another short name.
        message: human-readable.
    """

    model_id: Name
    code: Name
    message: Name


class RoutingStatus(Struct, tag=10, array_like=True, frozen=True):
    """The coordinator's answer to `Capabilities`; replaces the previous `RoutingStatus`.

    Attributes:
        revision: of the `Capabilities` that it answers.
        unroutable: the offered models that receive no jobs; all other offered models may.
    """

    revision: Count
    unroutable: Annotated[list[UnroutableModel], Meta(max_length=MAX_MODELS)]


# --- sent by the agent ----------------------------------------------------------------------------


class LiveJob(Struct, array_like=True, frozen=True):
    """A job that the agent still holds when it reconnects.

    Attributes:
        job_id: the job.
        first_offset: the oldest byte that the agent can still send.
        next_offset: one past the newest byte that it has sent.
        request_offset: every byte of the request before it has arrived.
        ended: the job has ended; its end follows its last byte.
    """

    job_id: JobId
    first_offset: Offset
    next_offset: Offset
    request_offset: Offset = 0
    ended: bool = False


class Hello(ContentRepr, Struct, tag=33, array_like=True, frozen=True):
    """The agent's answer to `Challenge`.

    Attributes:
        agent_version: the version of the agent's software, for logs.
        public_key: the agent's identity, as a raw Ed25519 key.
        signature: over `auth.signed_bytes(authority, nonce)`.
        enrollment_code: the code that the operator received; "" when the key is already known.
        instance_id: changes with each start of the process.
        session_id: the session to resume; None for a new one.
        live_jobs: every job of that session whose end is not finally acknowledged.
        features: the names of optional features that the agent supports.
        replace: whether to replace a connected agent with the same key.
    """

    CONTENT: ClassVar[frozenset[str]] = frozenset({"enrollment_code"})

    agent_version: Name
    public_key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]
    enrollment_code: Name = ""
    instance_id: Name = ""
    session_id: JobId | None = None
    live_jobs: Annotated[list[LiveJob], Meta(max_length=MAX_LIVE_JOBS)] = []
    features: Features = []
    replace: bool = False


class ModelOffer(Struct, array_like=True, frozen=True):
    """One model that the agent serves.

    Attributes:
        model_id: the name that jobs use.
        formats: the wire formats that its servers support natively.
        operations: the operations that its servers support natively.
        context_window: effective, in tokens; None when the server does not report it.
        native: whether it runs on the operator's machines; False for a passthrough.
        backend_kind: "vllm", "llamacpp", …
        max_concurrent: how many of its jobs may run at once.
        input_price_per_1m: millionths of a US dollar per million input tokens; None: no price.
        output_price_per_1m: the same for output tokens.
        max_output_tokens: the most tokens of one response; None: not reported.
        input_kinds: `text`, `image`, `audio`, …; None: not reported.
        tools: whether requests can offer tools; None: not reported.
        json_schema: whether requests can require a JSON schema; None: not reported.
        reasoning: whether the model can reason before it answers; None: not reported.
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
    max_output_tokens: Count | None = None
    input_kinds: Annotated[list[Name], Meta(max_length=16)] | None = None
    tools: bool | None = None
    json_schema: bool | None = None
    reasoning: bool | None = None


class AgentLimits(Struct, array_like=True, frozen=True):
    """The limits of the agent as a whole.

    Attributes:
        max_concurrent: how many jobs may run at once, all models together.
        max_tokens_per_minute: the operator's limit; None: no limit.
    """

    max_concurrent: Count
    max_tokens_per_minute: Count | None = None


class Capabilities(Struct, tag=34, array_like=True, frozen=True):
    """What the agent serves now; replaces the previous `Capabilities`.

    Attributes:
        revision: increases with every change within one process.
        models: one offer per model.
        limits: of the agent as a whole.
        metadata: what the operator publishes (display name, wallet, …); informational.
    """

    revision: Count
    models: Annotated[list[ModelOffer], Meta(max_length=MAX_MODELS)]
    limits: AgentLimits
    metadata: Annotated[dict[Name, Text], Meta(max_length=64)] = {}


class ModelLoad(Struct, array_like=True, frozen=True):
    """The load of one model on one backend. None: not reported or not measured.

    Attributes:
        model_id: as offered.
        state: `loaded`, `loading`, `cold` (the server loads it on demand), `down`; "" if unknown.
        in_flight: how many of this agent's jobs use it.
        running: requests that the server processes, of all its clients.
        waiting: requests in the server's queue, of all its clients.
        cache_used: used share (0…1) of the key-value cache.
        prefill_tokens_per_second: measured speed of reading a prompt, of one job.
        decode_tokens_per_second: measured speed of output, of one job.
    """

    model_id: Name
    state: Name
    in_flight: Count
    running: Count | None = None
    waiting: Count | None = None
    cache_used: Share | None = None
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None


class BackendLoad(Struct, array_like=True, frozen=True):
    """The load of one backend.

    Attributes:
        backend_id: `<kind>:<url>` or `<kind>`.
        healthy: whether its last health check succeeded.
        in_flight: how many of this agent's jobs run on it.
        capacity: how many of this agent's jobs it accepts at once.
        running: requests that the server processes, of all its clients; None: not reported.
        waiting: requests in the server's queue, of all its clients; None: not reported.
        cache_used: used share (0…1) of the key-value cache; None: not reported.
        models: the load of its models; a model may be left out when nothing is known about it.
    """

    backend_id: Name
    healthy: bool
    in_flight: Count
    capacity: Count
    running: Count | None = None
    waiting: Count | None = None
    cache_used: Share | None = None
    models: Annotated[list[ModelLoad], Meta(max_length=MAX_MODEL_LOADS)] = []


class Heartbeat(Struct, tag=35, array_like=True, frozen=True):
    """The agent's load. Rates cover the last 60 seconds; None: nothing was measured in them.

    Attributes:
        in_flight: how many jobs run now.
        queued: how many of them have no byte of response yet.
        capacity: how many jobs the agent accepts at once.
        tokens_per_second: output tokens of finished jobs, as reported by their servers.
        first_byte_p50_ms: median time from a job's arrival to the first byte of its response.
        first_byte_p95_ms: the 95th percentile of that time.
        error_rate: share (0…1) of the ended jobs that failed through the provider's fault.
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


class ResponseHeader(Struct, array_like=True, frozen=True):
    """One header of a server's response.

    Attributes:
        name: in lower case.
        value: without line breaks.
    """

    name: Name
    value: Name


class JobStarted(Struct, tag=36, array_like=True, frozen=True):
    """The response has started; sent once, before the first `Chunk`.

    Attributes:
        job_id: the job.
        status: the server's HTTP status.
        content_type: of the response; the coordinator sends it on to the client.
        backend_id: the backend that runs the job.
        headers: further headers for the client; the agent sends only those of a list.
    """

    job_id: JobId
    status: Annotated[int, Meta(ge=100, le=599)]
    content_type: Name
    backend_id: Name
    headers: Annotated[list[ResponseHeader], Meta(max_length=MAX_RESPONSE_HEADERS)] = []


class Chunk(ContentRepr, Struct, tag=37, array_like=True, frozen=True, gc=False):
    """A piece of the response, exactly as the server sent it.

    Attributes:
        job_id: the job.
        offset: of the first byte of `data` in the response.
        data: at least one byte.
    """

    CONTENT: ClassVar[frozenset[str]] = frozenset({"data"})

    job_id: JobId
    offset: Offset
    data: bytes


class Usage(Struct, array_like=True, frozen=True):
    """Tokens as the server reported them; None when it did not, never 0 for unknown.

    Attributes:
        input_tokens: of the whole prompt, cached or not.
        output_tokens: of the whole output, reasoning included.
        cached_tokens: those input tokens that were read from a cache.
        cache_write_tokens: those input tokens that were written to a cache.
        reasoning_tokens: those output tokens that were reasoning.
    """

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    reasoning_tokens: Count | None = None


class Receipt(Struct, array_like=True, frozen=True):
    """What the agent sent; part of an end when the feature `receipts` is active.

    Attributes:
        sha256: of all response bytes, `total_bytes` of them.
        signature: of the agent's key over `ReceiptContent.signed_bytes`; None unless the job asked.
    """

    sha256: Annotated[bytes, Meta(min_length=32, max_length=32)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)] | None = None


class JobResult(Struct, tag=38, array_like=True, frozen=True):
    """The job succeeded; its last frame.

    Attributes:
        job_id: the job.
        total_bytes: the length of the response, all of which was sent before.
        usage: as the server reported.
        backend_id: the backend that executed the job.
        duration_ms: from the job's arrival at the agent to its end.
        first_byte_ms: from its arrival to the first byte of the response; None: an empty response.
        input_price_per_1m: as offered when the job arrived; None: no price.
        output_price_per_1m: the same for output tokens.
        receipt: None unless the feature `receipts` is active.
    """

    job_id: JobId
    total_bytes: Count
    usage: Usage
    backend_id: Name
    duration_ms: Milliseconds
    first_byte_ms: Milliseconds | None
    input_price_per_1m: Count | None = None
    output_price_per_1m: Count | None = None
    receipt: Receipt | None = None


class JobError(ContentRepr, Struct, tag=39, array_like=True, frozen=True):
    """The job failed; its last frame.

    Attributes:
        job_id: the job.
        total_bytes: the length of the part of the response that was sent before.
        code: an `ErrorCode`.
        message: one human-readable sentence without secrets.
        upstream_status: the server's HTTP status; None when there was no response.
        retryable: whether another provider may be tried with the same job.
        retry_after_ms: when this provider may be tried again, if the server said so.
        body: the beginning of the server's error body, without secrets.
        error_relayed: whether the relayed bytes contain the server's own error event.
        between_events: whether the relayed bytes end between two events of an event stream.
        usage: tokens known so far.
        backend_id: the backend of the last attempt; "": no attempt.
        duration_ms: from the job's arrival at the agent to its end.
        first_byte_ms: from its arrival to the first byte of the response; None: no byte.
        input_price_per_1m: as offered when the job arrived; None: no price.
        output_price_per_1m: the same for output tokens.
        receipt: None unless the feature `receipts` is active.
    """

    CONTENT: ClassVar[frozenset[str]] = frozenset({"body"})

    job_id: JobId
    total_bytes: Count
    code: Name
    message: Text
    upstream_status: Annotated[int, Meta(ge=100, le=599)] | None = None
    retryable: bool = False
    retry_after_ms: Milliseconds | None = None
    body: Annotated[bytes, Meta(max_length=MAX_ERROR_BODY_BYTES)] = b""
    error_relayed: bool = False
    between_events: bool = True
    usage: Usage = Usage()
    backend_id: Name = ""
    duration_ms: Milliseconds = 0
    first_byte_ms: Milliseconds | None = None
    input_price_per_1m: Count | None = None
    output_price_per_1m: Count | None = None
    receipt: Receipt | None = None


class Draining(Struct, tag=40, array_like=True, frozen=True):
    """The agent is stopping and accepts no more jobs.

    Attributes:
        deadline_ms: after this time the agent cancels the jobs that still run.
    """

    deadline_ms: Milliseconds


CoordinatorFrame = (
    Challenge
    | Welcome
    | Rejected
    | JobHeader
    | Cancel
    | Ack
    | Drain
    | RequestChunk
    | Notice
    | RoutingStatus
)
AgentFrame = Hello | Capabilities | Heartbeat | JobStarted | Chunk | JobResult | JobError | Draining
JobEnd = JobResult | JobError
"""The end of a job: each job has exactly one."""
JobFrame = JobStarted | Chunk | JobEnd
"""The frames of a response."""
