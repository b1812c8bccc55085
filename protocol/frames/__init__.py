"""Every frame of protocol version 1.

A frame is encoded as the MessagePack array `[type, field, …]`, in the order of its attributes here.
New fields are appended, with a default; a reader ignores unknown trailing fields. Types 1–31 are
sent by the coordinator, 33–63 by the agent.

Names to which later versions may add, such as error codes, are plain strings: an unknown name does
not close the connection. An unknown `format` or `operation` fails one job, and an unknown error
code counts as `internal`.
"""

from provider_agent.protocol.frames.connection import (
    Challenge,
    Drain,
    Draining,
    Hello,
    LiveJob,
    Rejected,
    ResumedJob,
    Welcome,
)
from provider_agent.protocol.frames.fields import JobId
from provider_agent.protocol.frames.jobs import (
    Ack,
    Cancel,
    Chunk,
    JobError,
    JobHeader,
    JobResult,
    JobStarted,
    Receipt,
    RequestChunk,
    ResponseHeader,
    Usage,
)
from provider_agent.protocol.frames.load import (
    BackendLoad,
    Heartbeat,
    ModelLoad,
)
from provider_agent.protocol.frames.offers import (
    AgentLimits,
    Capabilities,
    ModelOffer,
    Notice,
    RoutingStatus,
    UnroutableModel,
)

__all__ = [
    "Ack",
    "AgentFrame",
    "AgentLimits",
    "BackendLoad",
    "Cancel",
    "Capabilities",
    "Challenge",
    "Chunk",
    "CoordinatorFrame",
    "Drain",
    "Draining",
    "Heartbeat",
    "Hello",
    "JobEnd",
    "JobError",
    "JobHeader",
    "JobId",
    "JobResult",
    "JobStarted",
    "LiveJob",
    "ModelLoad",
    "ModelOffer",
    "Notice",
    "Receipt",
    "Rejected",
    "RequestChunk",
    "ResponseFrame",
    "ResponseHeader",
    "ResumedJob",
    "RoutingStatus",
    "UnroutableModel",
    "Usage",
    "Welcome",
]

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
ResponseFrame = JobStarted | Chunk | JobEnd
"""The frames of a response."""
