"""The coordinator's half of the dialect: decodes an agent's messages as our frames.

One object serves one connection. What the dialect lacks is replaced here: responses get offsets,
status and content type, and a cancelled job gets its end.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import msgspec
from msgspec.structs import replace

from provider_agent.protocol.codec import Decoded
from provider_agent.protocol.errors import REGISTRY, ErrorCode
from provider_agent.protocol.exceptions import MalformedMessage, MessageTooBig
from provider_agent.protocol.field_values import (
    clamp_count,
    to_text,
)
from provider_agent.protocol.frames import (
    AgentFrame,
    Cancel,
    Challenge,
    Chunk,
    CoordinatorFrame,
    JobError,
    JobHeader,
    JobResult,
    JobStarted,
    Rejected,
    RequestChunk,
    Welcome,
)
from provider_agent.protocol.limits import MIB, USEPOD_DIALECT
from provider_agent.protocol.usepod import messages, received
from provider_agent.protocol.usepod.agent_frames import capabilities, heartbeat, hello, usage
from provider_agent.protocol.usepod.job_ids import uuid_text
from provider_agent.protocol.usepod.server_errors import read_error
from provider_agent.protocol.usepod.skipped import BINARY, Skipped, read_skipped, types_of

CONTENT_TYPE: Final = "text/event-stream"
"""The dialect does not name the content type: agents make every job stream."""

MAX_UNREAD_BYTES: Final = 4 * MIB
"""How much of a response its client may leave unread. The agent cannot be slowed down for one job
only, and half an hour of a fast text stream is smaller."""

MAX_JOB_BYTES: Final = 16 * MIB
"""The largest `job` message: the Rust agent's WebSocket library ends the connection after a larger
one, and with it all jobs."""

_NOT_THE_FIRST: Final = "the first message is not an `auth_response`"

_DECODER: Final = msgspec.json.Decoder(received.AgentMessage)
_ENCODER: Final = msgspec.json.Encoder()

_KNOWN_TYPES: Final = types_of(received.AgentMessage)

_STREAM_STATUS: Final = 200


class _Job:
    """A job without an end.

    Attributes:
        job_id: the 16 bytes of its id.
        header: its header, until its request is sent; then None.
        received: how many bytes of its response have arrived.
    """

    __slots__ = ("header", "job_id", "received")

    def __init__(self, header: JobHeader) -> None:
        self.job_id = header.job_id
        self.header: JobHeader | None = header
        self.received = 0


class UsepodCoordinatorDialect:
    """The coordinator's half of the dialect, for one connection.

    Args:
        instance_id: different on each connection, because the dialect does not name the agent's
            process.

    Attributes:
        name: the name of this dialect, for operators.
        is_text: True: messages are text.
        only_streams: True: agents answer every job with an event stream.
        max_unread_bytes: how many bytes of a response its client may leave unread.
    """

    name: Final = USEPOD_DIALECT
    is_text: Final = True
    only_streams: Final = True
    max_unread_bytes: Final = MAX_UNREAD_BYTES

    def __init__(self, instance_id: str) -> None:
        self._instance_id = instance_id
        self._greeted = False
        self._jobs: dict[str, _Job] = {}
        self._frames_instead: list[AgentFrame] = []
        self._capacity = 0
        self._revision = 0

    def __repr__(self) -> str:
        return f"<UsepodCoordinatorDialect jobs={len(self._jobs)}>"

    # --- to the agent -----------------------------------------------------------------------------

    def encode_messages(self, frames: Sequence[CoordinatorFrame]) -> list[bytes]:
        """Encode each frame as one message; leave out those that the dialect does not have.

        A `RequestChunk` must hold the whole request; it is sent together with its `JobHeader`.
        """
        return [message for frame in frames if (message := self._message(frame))]

    def _message(self, frame: CoordinatorFrame) -> bytes:
        match frame:
            case JobHeader():
                self._jobs[uuid_text(frame.job_id)] = _Job(frame)
            case RequestChunk():
                return self._job(frame)
            case Cancel():
                return self._cancel(frame)
            case Challenge():
                return _ENCODER.encode(messages.AuthChallenge(frame.nonce))
            case Welcome():
                return _ENCODER.encode(messages.AuthOk(frame.provider_id))
            case Rejected():
                return _ENCODER.encode(messages.AuthFailed(f"{frame.code}: {frame.message}"))
        return b""

    def take_frames(self) -> list[AgentFrame]:
        """Remove and return the ends of jobs that follow from what was encoded.

        Agents send no end after `job_cancel`, and a request that the dialect cannot carry is not
        sent.
        """
        frames, self._frames_instead = self._frames_instead, []
        return frames

    def _job(self, chunk: RequestChunk) -> bytes:
        text = uuid_text(chunk.job_id)
        job = self._jobs.get(text)
        header = None if job is None else job.header
        if job is None or header is None:
            return b""
        job.header = None
        if not _is_utf8(chunk.data):
            # In a text message it would end the connection, and with it all jobs.
            refusal = _error(job, ErrorCode.BAD_REQUEST, "The request is not valid UTF-8.")
        else:
            message = _ENCODER.encode(_job_message(text, header, chunk.data))
            if len(message) <= MAX_JOB_BYTES:
                return message
            too_large = "The request is too large for the provider."
            refusal = _error(job, ErrorCode.BAD_REQUEST, too_large, retryable=True)
            refusal = replace(refusal, upstream_status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        del self._jobs[text]
        self._frames_instead.append(refusal)
        return b""

    def _cancel(self, frame: Cancel) -> bytes:
        text = uuid_text(frame.job_id)
        job = self._jobs.pop(text, None)
        if job is None:
            return b""
        reason = frame.reason or REGISTRY[ErrorCode.CANCELLED].meaning
        self._frames_instead.append(_error(job, ErrorCode.CANCELLED, reason))
        return _ENCODER.encode(messages.JobCancel(text)) if job.header is None else b""

    # --- from the agent ---------------------------------------------------------------------------

    def decode_from_agent(self, message: bytes | str, max_bytes: int) -> Decoded[AgentFrame]:
        """Decode a message; one that is not a well-formed message of a known type has no frames.

        A malformed message that names a running job ends it: a part of its response is missing.

        Raises:
            MessageTooBig: it has more than `max_bytes` characters.
            MalformedMessage: it precedes `auth_response`.
        """
        if len(message) > max_bytes:
            raise MessageTooBig(f"a message of {len(message)} characters; the limit is {max_bytes}")
        if isinstance(message, bytes):
            return self._skip(Skipped(BINARY))
        try:
            decoded = _DECODER.decode(message)
        except (ValueError, RecursionError):
            return self._skip(read_skipped(message, _KNOWN_TYPES))
        if not (self._greeted or isinstance(decoded, received.AuthResponse)):
            raise MalformedMessage(_NOT_THE_FIRST)
        return Decoded(self._frames(decoded), [])

    def _skip(self, skipped: Skipped) -> Decoded[AgentFrame]:
        if not self._greeted:
            raise MalformedMessage(_NOT_THE_FIRST)
        job = self._jobs.pop(skipped.job_id, None)
        if job is None:
            return Decoded([], [skipped.kind])
        reason = "A message of the response is malformed."
        return Decoded([_error(job, ErrorCode.INVALID_RESPONSE, reason)], [skipped.kind])

    def _frames(self, message: received.AgentMessage) -> list[AgentFrame]:
        match message:
            case received.JobChunk():
                return self._chunk(message)
            case received.JobDone():
                return self._done(message)
            case received.JobFailed():
                return self._failed(message)
            case received.AgentHeartbeat():
                return [heartbeat(message, in_flight=len(self._jobs), capacity=self._capacity)]
            case received.OfferedCapabilities():
                self._capacity = message.limits.max_concurrent_total
                self._revision += 1
                return [capabilities(message, self._revision)]
            case received.AuthResponse():
                self._greeted = True
                return [hello(message, self._instance_id)]

    def _chunk(self, message: received.JobChunk) -> list[AgentFrame]:
        job = self._jobs.get(message.job_id)
        if job is None or not message.data:  # ended, cancelled or never sent
            return []
        chunk = Chunk(job.job_id, job.received, message.data)
        job.received += len(message.data)
        if chunk.offset:
            return [chunk]
        return [JobStarted(job.job_id, _STREAM_STATUS, CONTENT_TYPE, ""), chunk]

    def _done(self, message: received.JobDone) -> list[AgentFrame]:
        job = self._jobs.pop(message.job_id, None)
        if job is None:
            return []
        if not job.received:
            return [_error(job, ErrorCode.INVALID_RESPONSE, "The response is empty.")]
        result = JobResult(
            job_id=job.job_id,
            total_bytes=job.received,
            usage=usage(message.tokens),
            backend_id="",
            duration_ms=clamp_count(message.duration_ms),
            first_byte_ms=None,
        )
        return [result]

    def _failed(self, message: received.JobFailed) -> list[AgentFrame]:
        job = self._jobs.pop(message.job_id, None)
        if job is None:
            return []
        found = read_error(message.error_code or "", message.message or "")
        error = _error(job, found.code, to_text(found.message))
        return [replace(error, upstream_status=found.status, body=found.body)]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _job_message(text: str, header: JobHeader, request: bytes) -> messages.Job:
    return messages.Job(
        job_id=text,
        model_id=header.model_id,
        request=msgspec.Raw(request),
        format=msgspec.Raw(_ENCODER.encode(header.format)),
        deadline_ms=msgspec.Raw(b"%d" % header.deadline_ms),
    )


def _error(job: _Job, code: ErrorCode, message: str, *, retryable: bool | None = None) -> JobError:
    is_retryable = REGISTRY[code].retryable if retryable is None else retryable
    return JobError(job.job_id, job.received, code.value, message, retryable=is_retryable)
