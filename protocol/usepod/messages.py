"""The messages of the dialect: JSON objects whose `type` names the message.

Unknown fields are ignored. Bytes are standard base64 in JSON.
"""

from datetime import datetime
from typing import Annotated

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from provider_agent.protocol.limits import MAX_NAME_CHARS

JobIdText = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
"""A UUID in the marketplace; any other text is returned unchanged."""

# --- from the coordinator -------------------------------------------------------------------------


class AuthChallenge(Struct, tag="auth_challenge", frozen=True):
    """The first message: a nonce for the agent to sign."""

    nonce: Annotated[bytes, Meta(max_length=1024)]


class AuthOk(Struct, tag="auth_ok", frozen=True):
    """The coordinator admits the agent; it may leave out the provider id.

    A text of any length is accepted: to skip this message would end the connection.
    """

    provider_id: str | None = None


class AuthFailed(Struct, tag="auth_failed", frozen=True):
    """The coordinator does not admit the agent; its reason may have any length."""

    reason: str | None = None


class Job(Struct, tag="job", frozen=True):
    """One request to execute.

    Attributes:
        job_id: chosen by the coordinator.
        model_id: as offered.
        request: the request body, as the coordinator wrote it.
        format: the text "anthropic"; any other value counts as "openai".
        deadline_ms: how long the job may take; 60000 if it is missing or no count.
    """

    job_id: JobIdText
    model_id: str
    request: Raw
    format: Raw = Raw(b"null")
    deadline_ms: Raw = Raw(b"null")


class JobCancel(Struct, tag="job_cancel", frozen=True):
    """Stop a job; no end is sent for it."""

    job_id: JobIdText


CoordinatorMessage = AuthChallenge | AuthOk | AuthFailed | Job | JobCancel


# --- from the agent -------------------------------------------------------------------------------


class AuthResponse(Struct, tag="auth_response", frozen=True):
    """The answer to `AuthChallenge`.

    Attributes:
        pubkey: the agent's raw Ed25519 key.
        signature: over the bare nonce; no host is part of it.
        agent_version: the version of the agent's software.
        enrollment_code: left out as soon as the provider id is known.
    """

    pubkey: bytes
    signature: bytes
    agent_version: str
    enrollment_code: str | UnsetType = UNSET


class OfferedModel(Struct, frozen=True):
    """One model; prices are in millionths of a US dollar per million tokens."""

    model_id: str
    input_per_1m: int
    output_per_1m: int
    max_concurrent: int
    backend: str
    context_window: int | UnsetType = UNSET


class Limits(Struct, frozen=True):
    """The limits of the agent as a whole; None: no limit."""

    max_concurrent_total: int
    max_tokens_per_minute: int | None


class Metadata(Struct, frozen=True):
    """What the coordinator learns about the agent itself."""

    agent_version: str


class OfferedCapabilities(Struct, tag="capabilities", frozen=True):
    """What the agent serves now; replaces the previous message of this type."""

    models: list[OfferedModel]
    limits: Limits
    metadata: Metadata


class AgentHeartbeat(Struct, tag="heartbeat", frozen=True):
    """The agent's load; 0 where nothing was measured.

    Attributes:
        queue_depth: how many running jobs have no byte of response yet.
        tokens_per_sec_p50: output tokens per second of one job, after its first byte: the median of
            the models that were measured in the last five minutes.
        p50_latency_ms: median time to the first byte, over the last minute.
        p95_latency_ms: the 95th percentile of that time.
        error_rate_60s: share (0…1) of the ended jobs that failed through the provider's fault.
        last_error_at: when a job last failed through the provider's fault, as RFC 3339 text in UTC;
            null if none did. No recording shows a value: the Rust agent always sends null.
        last_error_code: the code of that job, a value of `error_codes.ERROR_CODES`.
    """

    queue_depth: int
    tokens_per_sec_p50: float
    p50_latency_ms: int
    p95_latency_ms: int
    error_rate_60s: float
    last_error_at: datetime | None = None
    last_error_code: str | None = None


class JobChunk(Struct, tag="job_chunk", frozen=True, gc=False):
    """The next bytes of a response, as the server sent them."""

    job_id: str
    data: bytes


class Tokens(Struct, frozen=True):
    """The tokens of a job, in both spellings that the coordinator reads; 0: unknown."""

    input: int
    output: int
    input_tokens: int
    output_tokens: int


class JobDone(Struct, tag="job_done", frozen=True):
    """The job succeeded; its last message."""

    job_id: str
    tokens: Tokens
    duration_ms: int


class JobFailed(Struct, tag="job_error", frozen=True):
    """The job failed; its last message.

    Attributes:
        job_id: the job.
        error_code: a value of `error_codes.ERROR_CODES`.
        message: human-readable; the server's error body is part of it.
        tokens_emitted: how many bytes of the response were sent before, despite its name.
    """

    job_id: str
    error_code: str
    message: str
    tokens_emitted: int
