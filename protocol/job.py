"""One job: its header and its whole request body."""

from typing import ClassVar

from msgspec import Struct

from provider_agent.protocol.content_repr import ContentRepr
from provider_agent.protocol.frames import JobHeader


class Job(ContentRepr, Struct, frozen=True):
    """One request to execute, with its whole body.

    Attributes:
        job_id: the 16 bytes of a UUID.
        model_id: the `ModelOffer.model_id` of an offer.
        format: a `WireFormat`.
        request: one JSON object, as the client sent it.
        deadline_ms: how long the job may take, from the arrival of its header at the agent.
        operation: an `Operation`; "" means the format's main one.
        traceparent: W3C Trace Context to forward to the server; "" for none.
        add_usage: whether the request may be changed so that the server reports usage.
        sign_receipt: whether the receipt of the job's end is signed, if receipts are negotiated.
    """

    CONTENT: ClassVar[frozenset[str]] = frozenset({"request"})

    job_id: bytes
    model_id: str
    format: str
    request: bytes
    deadline_ms: int
    operation: str = ""
    traceparent: str = ""
    add_usage: bool = True
    sign_receipt: bool = False

    @property
    def header(self) -> JobHeader:
        """The frame that announces the job."""
        return JobHeader(
            job_id=self.job_id,
            model_id=self.model_id,
            format=self.format,
            request_bytes=len(self.request),
            deadline_ms=self.deadline_ms,
            operation=self.operation,
            traceparent=self.traceparent,
            add_usage=self.add_usage,
            sign_receipt=self.sign_receipt,
        )


def join_request(header: JobHeader, request: bytes) -> Job:
    """Return the job of a header whose request body has arrived completely."""
    return Job(
        job_id=header.job_id,
        model_id=header.model_id,
        format=header.format,
        request=request,
        deadline_ms=header.deadline_ms,
        operation=header.operation,
        traceparent=header.traceparent,
        add_usage=header.add_usage,
        sign_receipt=header.sign_receipt,
    )
