"""The messages that a coordinator of the dialect accepts from agents.

They have the names of those in `messages`, which our agent sends, but only the fields that a
coordinator reads; others are skipped. A field that an agent may leave out has a default.
"""

from typing import Annotated

from msgspec import Meta, Struct

from provider_agent.protocol.frames.fields import Count, Name
from provider_agent.protocol.limits import MAX_MODELS, MAX_NAME_CHARS


class AuthResponse(Struct, tag="auth_response", frozen=True):
    """The answer to `auth_challenge`; the signature is over the bare nonce."""

    pubkey: Annotated[bytes, Meta(min_length=32, max_length=32)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]
    agent_version: str = ""
    enrollment_code: Name | None = None


class OfferedModel(Struct, frozen=True):
    """One model; prices are in millionths of a US dollar per million tokens."""

    model_id: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
    input_per_1m: Count
    output_per_1m: Count
    max_concurrent: Count
    backend: str = ""
    context_window: Count | None = None


class Limits(Struct, frozen=True):
    """The limits of the agent as a whole."""

    max_concurrent_total: Count
    max_tokens_per_minute: Count | None = None


class OfferedCapabilities(Struct, tag="capabilities", frozen=True):
    """What the agent serves now."""

    models: Annotated[list[OfferedModel], Meta(max_length=MAX_MODELS)]
    limits: Limits


class AgentHeartbeat(Struct, tag="heartbeat", frozen=True):
    """The agent's load; 0 also means that nothing was measured."""

    queue_depth: int = 0
    tokens_per_sec_p50: float = 0.0
    p50_latency_ms: float = 0.0
    p95_latency_ms: float = 0.0
    error_rate_60s: float = 0.0


class JobChunk(Struct, tag="job_chunk", frozen=True, gc=False):
    """The next bytes of a response."""

    job_id: str
    data: bytes


class Tokens(Struct, frozen=True):
    """The tokens of a job, in one of two spellings or in both; 0: unknown."""

    input: int = 0
    output: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class JobDone(Struct, tag="job_done", frozen=True):
    """The job succeeded; its last message."""

    job_id: str
    tokens: Tokens | None = None
    duration_ms: int = 0


class JobFailed(Struct, tag="job_error", frozen=True):
    """The job failed; its last message."""

    job_id: str
    error_code: str | None = None
    message: str | None = None


AgentMessage = AuthResponse | OfferedCapabilities | AgentHeartbeat | JobChunk | JobDone | JobFailed
