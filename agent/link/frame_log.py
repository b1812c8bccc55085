"""Logs frames at DEBUG: direction, type, job, offset and length; never content or credentials."""

import logging
from collections.abc import Sequence

from provider_agent.event_log import EventLogger
from provider_agent.protocol.codec import Decoded
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    Cancel,
    Chunk,
    CoordinatorFrame,
    JobError,
    JobHeader,
    JobResult,
    JobStarted,
    RequestChunk,
)

log = EventLogger(__name__)


def log_received(decoded: Decoded[CoordinatorFrame]) -> None:
    """Log the frames of one received message, unknown ones included."""
    if not log.enabled_for(logging.DEBUG):
        return
    for frame in decoded.frames:
        log.debug("frame received", **_fields(frame))
    for frame_type in decoded.unknown_types:
        log.debug("frame received", type=frame_type)


def log_sent(frames: Sequence[AgentFrame]) -> None:
    """Log the frames of one batch, even one that could not be sent, which is logged as an error."""
    if not log.enabled_for(logging.DEBUG):
        return
    for frame in frames:
        log.debug("frame sent", **_fields(frame))


def _fields(frame: AgentFrame | CoordinatorFrame) -> dict[str, object]:
    fields: dict[str, object] = {"type": type(frame).__name__}
    match frame:
        case Chunk() | RequestChunk():
            fields |= {"job": frame.job_id.hex(), "offset": frame.offset, "length": len(frame.data)}
        case Ack():
            fields |= {"job": frame.job_id.hex(), "offset": frame.offset, "final": frame.final}
        case JobResult() | JobError():
            fields |= {"job": frame.job_id.hex(), "offset": frame.total_bytes}
        case JobHeader():
            fields |= {"job": frame.job_id.hex(), "length": frame.request_bytes}
        case JobStarted() | Cancel():
            fields["job"] = frame.job_id.hex()
    return fields
