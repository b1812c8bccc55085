"""The coordinator's half of the dialect: decodes an agent's messages as our frames.

One object serves one connection. What the dialect lacks is replaced here: responses get offsets,
status and content type, and a cancelled job gets its end.
"""

import uuid
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from provider_agent.protocol.codec import Decoded
from provider_agent.protocol.errors import REGISTRY, ErrorCode
from provider_agent.protocol.exceptions import MalformedMessage, MessageTooBig
from provider_agent.protocol.field_values import (
    clamp_count,
    to_line,
    to_text,
    valid_count,
    valid_measure,
    valid_share,
    valid_speed,
)
from provider_agent.protocol.formats import Operation, WireFormat
from provider_agent.protocol.frames import (
    AgentFrame,
    AgentLimits,
    Cancel,
    Capabilities,
    Challenge,
    Chunk,
    CoordinatorFrame,
    Heartbeat,
    Hello,
    JobError,
    JobHeader,
    JobResult,
    JobStarted,
    ModelOffer,
    Rejected,
    RequestChunk,
    Usage,
    Welcome,
)
from provider_agent.protocol.limits import MIB
from provider_agent.protocol.usepod import messages, received
from provider_agent.protocol.usepod.server_errors import read_error

NAME: Final = "usepod"
"""The name of the dialect in settings, logs and metrics."""

CONTENT_TYPE: Final = "text/event-stream"
"""The dialect does not name the content type: agents make every job stream."""

MAX_UNREAD_BYTES: Final = 4 * MIB
"""How much of a response its client may leave unread. The agent cannot be slowed down for one job
only, and half an hour of a fast text stream is smaller."""

MAX_JOB_BYTES: Final = 16 * MIB
"""The largest `job` message: the Rust agent's WebSocket library ends the connection after a larger
one, and with it all jobs."""

_MAX_TYPE_CHARS: Final = 64

_NOT_THE_FIRST: Final = "the first message is not an `auth_response`"

_DECODER: Final = msgspec.json.Decoder(received.AgentMessage)
_HEAD_DECODER: Final = msgspec.json.Decoder(received.MessageHead)
_ENCODER: Final = msgspec.json.Encoder()

_KNOWN_TYPES: Final = frozenset(one.__struct_config__.tag for one in received.AgentMessage.__args__)

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

    name: Final = NAME
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
                self._jobs[_text(frame.job_id)] = _Job(frame)
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
        text = _text(chunk.job_id)
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
        del self._jobs[text]
        self._frames_instead.append(refusal)
        return b""

    def _cancel(self, frame: Cancel) -> bytes:
        text = _text(frame.job_id)
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
            return self._skip("binary")
        try:
            decoded = _DECODER.decode(message)
        except (ValueError, RecursionError):
            return self._malformed(message)
        if not (self._greeted or isinstance(decoded, received.AuthResponse)):
            raise MalformedMessage(_NOT_THE_FIRST)
        return Decoded(self._frames(decoded), [])

    def _malformed(self, message: str) -> Decoded[AgentFrame]:
        try:
            head = _HEAD_DECODER.decode(message)
        except (ValueError, RecursionError):
            return self._skip("malformed")
        if head.type not in _KNOWN_TYPES:
            return self._skip(to_line(head.type, _MAX_TYPE_CHARS))
        skipped = self._skip(f"malformed {head.type}")
        job = self._jobs.pop(head.job_id, None)
        if job is not None:
            code = ErrorCode.INVALID_RESPONSE
            skipped.frames.append(_error(job, code, "A message of the response is malformed."))
        return skipped

    def _skip(self, kind: str) -> Decoded[AgentFrame]:
        if not self._greeted:
            raise MalformedMessage(_NOT_THE_FIRST)
        return Decoded([], [kind])

    def _frames(self, message: received.AgentMessage) -> list[AgentFrame]:
        match message:
            case received.JobData():
                return self._chunk(message)
            case received.JobDone():
                return self._done(message)
            case received.JobFailed():
                return self._failed(message)
            case received.Load():
                return [self._heartbeat(message)]
            case received.Offers():
                self._capacity = message.limits.max_concurrent_total
                self._revision += 1
                return [_capabilities(message, self._revision)]
            case received.AuthResponse():
                self._greeted = True
                return [self._hello(message)]

    def _chunk(self, message: received.JobData) -> list[AgentFrame]:
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
            usage=_usage(message.tokens),
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

    def _heartbeat(self, load: received.Load) -> Heartbeat:
        return Heartbeat(
            in_flight=len(self._jobs),
            queued=clamp_count(load.queue_depth),
            capacity=self._capacity,
            tokens_per_second=valid_speed(load.tokens_per_sec_p50),
            first_byte_p50_ms=valid_measure(load.p50_latency_ms) or None,
            first_byte_p95_ms=valid_measure(load.p95_latency_ms) or None,
            error_rate=valid_share(load.error_rate_60s) or None,
        )

    def _hello(self, message: received.AuthResponse) -> Hello:
        return Hello(
            agent_version=to_line(message.agent_version),
            public_key=message.pubkey,
            signature=message.signature,
            enrollment_code=message.enrollment_code or "",
            instance_id=self._instance_id,
        )


def _text(job_id: bytes) -> str:
    return str(uuid.UUID(bytes=job_id))


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


def _usage(tokens: received.Tokens | None) -> Usage:
    """Return the reported tokens; if both counts are 0, nothing is known about them."""
    if tokens is None:
        return Usage()
    counts = tokens.input or tokens.input_tokens, tokens.output or tokens.output_tokens
    return Usage(*map(valid_count, counts)) if any(counts) else Usage()


def _capabilities(offers: received.Offers, revision: int) -> Capabilities:
    limits = offers.limits
    return Capabilities(
        revision=revision,
        models=[_offer(model) for model in offers.models],
        limits=AgentLimits(limits.max_concurrent_total, limits.max_tokens_per_minute),
    )


def _offer(model: received.Model) -> ModelOffer:
    """Return the offer of a model, for chat only.

    The dialect does not say more, and the Rust agent sends every job to the chat route.
    """
    return ModelOffer(
        model_id=model.model_id,
        formats=[WireFormat.OPENAI.value],
        operations=[Operation.CHAT.value],
        context_window=model.context_window,
        native=True,
        backend_kind=to_line(model.backend),
        max_concurrent=model.max_concurrent,
        input_price_per_1m=model.input_per_1m,
        output_price_per_1m=model.output_per_1m,
    )
