"""The record of one ended job."""

from msgspec import Struct

from provider_agent.agent.backends.routing import RefusalReason
from provider_agent.agent.jobs.timeline import JobTimeline
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import JobEnd


class JobRecord(Struct, frozen=True):
    """One ended job, for statistics and metrics.

    Attributes:
        wire_format: the job's wire format.
        backend_kind: the kind of the backend of the last attempt; "" if there was no attempt.
        end: the job's end.
        first_byte_s: seconds from the job's arrival to the first byte of its response; None if the
            job failed or the time is unknown.
        attempts: the number of attempts on all backends; 0 for a refused job.
        model_id: the model; "" if the job was refused and the agent did not offer the model.
        streamed: whether the response is an event stream.
        failover_causes: the error code of each failed attempt that another attempt followed.
        refusal: why the job was refused; None if it was not.
        sha256: the hash of the response; None if it is not hashed.
        timeline: the times of the job; None if no traces are exported.
    """

    wire_format: str
    backend_kind: str
    end: JobEnd
    first_byte_s: float | None
    attempts: int = 1
    model_id: str = ""
    streamed: bool = False
    failover_causes: tuple[ErrorCode, ...] = ()
    refusal: RefusalReason | None = None
    sha256: bytes | None = None
    timeline: JobTimeline | None = None
