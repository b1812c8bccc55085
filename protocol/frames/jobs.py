"""Frames of one job: its request, its response and its end."""

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from provider_agent.protocol.content_repr import ContentRepr
from provider_agent.protocol.frames.fields import Count, JobId, Milliseconds, Name, Offset, Text
from provider_agent.protocol.limits import (
    MAX_DEADLINE_MS,
    MAX_ERROR_BODY_BYTES,
    MAX_REQUEST_BYTES,
    MAX_RESPONSE_HEADERS,
)


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
        offset: every byte before this offset was passed on. The agent drops the bytes that are
            newly acknowledged, and may send as many more.
        final: the end frame was processed too; the agent forgets the job.
    """

    job_id: JobId
    offset: Offset
    final: bool = False


class ResponseHeader(Struct, array_like=True, frozen=True):
    """One header of a server's response.

    Attributes:
        name: in lower case.
        value: without line breaks.
    """

    name: Name
    value: Name


class JobStarted(Struct, tag=36, array_like=True, frozen=True):
    """The response has started; sent before the first `Chunk`.

    It is sent again when a response continues from offset 0 on a new link.

    Attributes:
        job_id: the job.
        status: the server's HTTP status.
        content_type: of the response; the coordinator sends it on to the client.
        backend_id: the backend that runs the job.
        headers: further headers for the client, of `response_headers.CLIENT_HEADERS`.
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
    """The hash of what the agent sent; part of an end when the feature `receipts` is active.

    Attributes:
        sha256: of all response bytes, `total_bytes` of them.
        signature: with the agent's key, over `ReceiptContent.signed_bytes`; None unless the job
            requested it.
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
        first_byte_ms: from its arrival to the first byte of the response; None: no `JobStarted`.
        input_price_per_1m: that of the `ModelOffer` when the job arrived; None: no price.
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
        retry_after_ms: how long until this provider may be tried again; None: not reported by the
            server.
        body: the beginning of the server's error body, without secrets.
        error_relayed: whether the relayed bytes contain the server's own error event.
        between_events: whether no bytes were relayed, or they end between two events of an event
            stream.
        usage: tokens known so far.
        backend_id: the backend of the last attempt; "": no attempt.
        duration_ms: from the job's arrival at the agent to its end.
        first_byte_ms: from its arrival to the first byte of the response; None: no `JobStarted`.
        input_price_per_1m: that of the `ModelOffer` when the job arrived; None: no price.
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
