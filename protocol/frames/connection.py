"""Frames of the connection itself: handshake, resumption and drain."""

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from provider_agent.protocol.content_repr import ContentRepr
from provider_agent.protocol.frames.fields import (
    Count,
    Features,
    JobId,
    Milliseconds,
    Name,
    Offset,
    SessionId,
    Text,
)
from provider_agent.protocol.limits import MAX_LIVE_JOBS


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


class LiveJob(Struct, array_like=True, frozen=True):
    """A job that the agent still holds when it reconnects.

    Attributes:
        job_id: the job.
        first_offset: the oldest byte that the agent can still send.
        next_offset: one past the newest byte that it has sent.
        request_offset: every byte of the request before this offset has arrived.
        ended: whether the job has ended; its end frame is sent after the last byte.
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
        enrollment_code: the code that the operator received, or ""; a known key needs none.
        instance_id: changes with each start of the process.
        session_id: the session to resume; None for a new one.
        live_jobs: every job of that session whose end no final `Ack` covers.
        features: the names of optional features that the agent supports.
        replace: whether to replace a connected agent with the same key.
    """

    CONTENT: ClassVar[frozenset[str]] = frozenset({"enrollment_code"})

    agent_version: Name
    public_key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]
    enrollment_code: Name = ""
    instance_id: Name = ""
    session_id: SessionId | None = None
    live_jobs: Annotated[list[LiveJob], Meta(max_length=MAX_LIVE_JOBS)] = []
    features: Features = []
    replace: bool = False


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
        provider_id: the coordinator's name for the owner of the agent's key.
        session_id: 16 bytes; the agent names it in a later `Hello` to resume.
        heartbeat_ms: the interval of the agent's heartbeats.
        resume_ms: how long the coordinator keeps the session after a lost link; 0: not at all.
        window_bytes: how many bytes of each response may be unacknowledged.
        max_message_bytes: the largest message that the coordinator accepts.
        resumed: each live job of `Hello` that continues, or whose end the coordinator already has;
            the agent cancels the others.
        features: the optional features of this connection, of those that both sides support.
    """

    provider_id: Name
    session_id: SessionId
    heartbeat_ms: Annotated[int, Meta(ge=100, le=3_600_000)]
    resume_ms: Milliseconds
    window_bytes: Count
    max_message_bytes: Count
    resumed: Annotated[list[ResumedJob], Meta(max_length=MAX_LIVE_JOBS)] = []
    features: Features = []


class Rejected(Struct, tag=3, array_like=True, frozen=True):
    """The coordinator does not admit the agent, and closes the connection after this frame.

    Attributes:
        code: `bad_signature`, `not_enrolled`, `too_many_connections`, `draining`, `key_in_use` or
            another short name.
        message: for the operator.
        retry_after_ms: how long to wait before a retry; None: do not retry with the same key and
            enrollment code.
    """

    code: Name
    message: Text
    retry_after_ms: Milliseconds | None = None


class Drain(Struct, tag=7, array_like=True, frozen=True):
    """The coordinator is stopping: the agent finishes its jobs, then reconnects.

    Attributes:
        reason: for logs.
        reconnect_after_ms: how long the agent waits after its last job's end before it reconnects.
    """

    reason: Text = ""
    reconnect_after_ms: Milliseconds = 0


class Draining(Struct, tag=40, array_like=True, frozen=True):
    """The agent is stopping and accepts no more jobs.

    Attributes:
        deadline_ms: after this time the agent cancels the jobs that still run.
    """

    deadline_ms: Milliseconds
