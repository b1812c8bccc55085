"""Encodes our frames as messages of the dialect, and decodes its messages as our frames.

One object serves one connection. What the dialect lacks is replaced here: its jobs have texts as
ids, a cancelled job has no end, and bytes count as acknowledged when they are written to the link.
Chunks are encoded by hand, as they are nearly all of the messages.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from provider_agent.protocol.codec import Decoded
from provider_agent.protocol.errors import LastError
from provider_agent.protocol.exceptions import MessageTooBig
from provider_agent.protocol.field_values import to_line, to_text
from provider_agent.protocol.formats import WireFormat
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    Cancel,
    Capabilities,
    Challenge,
    Chunk,
    CoordinatorFrame,
    Draining,
    Heartbeat,
    Hello,
    JobError,
    JobHeader,
    JobResult,
    Rejected,
    RequestChunk,
    Welcome,
)
from provider_agent.protocol.limits import (
    KIB,
    MAX_DEADLINE_MS,
    MAX_MESSAGE_TO_COORDINATOR_BYTES,
    MAX_REQUEST_BYTES,
    WINDOW_BYTES,
)
from provider_agent.protocol.usepod import messages
from provider_agent.protocol.usepod.agent_messages import (
    auth_response,
    heartbeat,
    job_done,
    job_failed,
)
from provider_agent.protocol.usepod.job_ids import JobIds
from provider_agent.protocol.usepod.malformed_jobs import malformed_job
from provider_agent.protocol.usepod.offers import offered_capabilities
from provider_agent.protocol.usepod.requests import read_request
from provider_agent.protocol.usepod.skipped import BINARY, read_skipped, types_of
from provider_agent.protocol.usepod.surrogates import job_with_surrogates

HEARTBEAT_MS: Final = 15_000
"""The interval that the marketplace expects."""

DEFAULT_DEADLINE_MS: Final = 60_000
"""The deadline of a job without one."""

AUTH_RETRY_MS: Final = 60_000
"""The wait after `auth_failed`: its cause ends only when a human acts."""

MAX_JOB_MESSAGE_BYTES: Final = MAX_REQUEST_BYTES + 64 * KIB
"""A job is one message: its request and its other fields."""

_ACK_BYTES: Final = 16 * KIB
"""Bytes count as acknowledged when the response passes a multiple of this: an acknowledgement of
each chunk would cost more than the chunk. Until then, the bytes remain in memory."""

_DECODER: Final = msgspec.json.Decoder(messages.CoordinatorMessage)
_COUNT_DECODER: Final = msgspec.json.Decoder(int)
_ENCODER: Final = msgspec.json.Encoder()

_KNOWN_TYPES: Final = types_of(messages.CoordinatorMessage)


class UsepodDialect:
    """The agent's half of the dialect, for one connection.

    Args:
        job_ids: the ids of the jobs of this process; the previous connection's jobs are forgotten.
        agent_version: the version of the agent's software.
        last_error: returns the last error for a heartbeat; None: there was none.

    Attributes:
        subprotocol: None: the upgrade names none.
        is_text: True: messages are text.
        max_to_agent_bytes: the largest message of the coordinator.
    """

    subprotocol: Final = None
    is_text: Final = True
    max_to_agent_bytes: Final = MAX_JOB_MESSAGE_BYTES

    def __init__(
        self,
        job_ids: JobIds,
        agent_version: str,
        last_error: Callable[[], LastError | None] = lambda: None,
    ) -> None:
        job_ids.start_connection()
        self._job_ids = job_ids
        self._agent_version = agent_version
        self._last_error = last_error
        self._acks: list[Ack] = []
        self._offers: Capabilities | None = None
        self._is_draining = False
        self._chunk_heads: dict[bytes, bytes] = {}
        """By job id: what the messages of its chunks begin with."""

    def __repr__(self) -> str:
        return f"<UsepodDialect {self._job_ids!r}>"

    # --- to the coordinator -----------------------------------------------------------------------

    def encode_messages(self, frames: Sequence[AgentFrame]) -> list[bytes]:
        """Encode each frame as one message; leave out those that the dialect does not have."""
        encoded: list[bytes] = []
        heads = self._chunk_heads
        for frame in frames:
            if type(frame) is not Chunk:
                if message := self._message(frame):
                    encoded.append(message)
                continue
            job_id, offset, data = frame.job_id, frame.offset, frame.data
            end = offset + len(data)
            if (offset ^ end) >= _ACK_BYTES:
                self._acks.append(Ack(job_id, end))
            if head := heads.get(job_id) or self._new_chunk_head(job_id):
                encoded.append(b"".join((head, _ENCODER.encode(data), b"}")))
        return encoded

    def take_acks(self) -> list[Ack]:
        """Remove and return the acknowledgements of what was written since the last call.

        Nothing more is sent for jobs whose end was written.
        """
        acks, self._acks = self._acks, []
        for ack in acks:
            if ack.final:
                self._end_job(ack.job_id)
        return acks

    def _end_job(self, job_id: bytes) -> None:
        """Send nothing more for a job."""
        self._job_ids.end(job_id)
        self._chunk_heads.pop(job_id, None)

    def _new_chunk_head(self, job_id: bytes) -> bytes:
        """Return what the messages of a job's chunks begin with; b"" if none may be sent."""
        text = self._job_ids.text(job_id)
        if text is None:
            return b""
        head = _ENCODER.encode(messages.JobChunk(text, b"")).removesuffix(b'""}')
        self._chunk_heads[job_id] = head
        return head

    def _message(self, frame: AgentFrame) -> bytes:
        match frame:
            case JobResult() | JobError():
                return self._end(frame)
            case Heartbeat():
                return _ENCODER.encode(heartbeat(frame, self._last_error()))
            case Capabilities():
                self._offers = frame
                return self._capabilities(frame)
            case Draining():
                return self._draining()
            case Hello():
                return _ENCODER.encode(auth_response(frame))
        return b""

    def _end(self, end: JobResult | JobError) -> bytes:
        text = self._job_ids.text(end.job_id)
        message = b""
        if text is not None:
            last = job_done(text, end) if isinstance(end, JobResult) else job_failed(text, end)
            message = _ENCODER.encode(last)
        self._acks.append(Ack(end.job_id, end.total_bytes, final=True))
        return message

    def _capabilities(self, frame: Capabilities) -> bytes:
        if self._is_draining:
            frame = replace(frame, models=[])
        return _ENCODER.encode(offered_capabilities(frame, self._agent_version))

    def _draining(self) -> bytes:
        """Withdraw all offers until the end of the connection: the dialect has no other drain."""
        self._is_draining = True
        return b"" if self._offers is None else self._capabilities(self._offers)

    # --- from the coordinator ---------------------------------------------------------------------

    def decode_from_coordinator(
        self, message: bytes | str, max_bytes: int
    ) -> Decoded[CoordinatorFrame]:
        """Decode a message; one that is not a well-formed message of a known type has no frames.

        Raises:
            MessageTooBig: it has more than `max_bytes` characters.
        """
        if not isinstance(message, str):
            return Decoded([], [BINARY])
        if len(message) > max_bytes:
            raise MessageTooBig(f"a message of {len(message)} characters; the limit is {max_bytes}")
        try:
            decoded: messages.CoordinatorMessage = _DECODER.decode(message)
        except (ValueError, RecursionError) as error:
            is_too_deep = isinstance(error, RecursionError)
            job = job_with_surrogates(message) or malformed_job(message, is_too_deep=is_too_deep)
            if job is None:
                return Decoded([], [read_skipped(message, _KNOWN_TYPES).kind])
            decoded = job
        return Decoded(self._frames(decoded), [])

    def _frames(self, message: messages.CoordinatorMessage) -> list[CoordinatorFrame]:
        match message:
            case messages.Job():
                return self._job(message)
            case messages.JobCancel():
                job_id = self._job_ids.find(message.job_id)
                if job_id is None:
                    return []
                self._end_job(job_id)
                return [Cancel(job_id)]
            case messages.AuthChallenge():
                return [Challenge(message.nonce, "")]
            case messages.AuthOk():
                return [_welcome(message)]
            case messages.AuthFailed():
                return [Rejected("auth_failed", to_text(message.reason or ""), AUTH_RETRY_MS)]

    def _job(self, job: messages.Job) -> list[CoordinatorFrame]:
        job_id = self._job_ids.add(job.job_id)
        if job_id is None:
            return []
        is_anthropic = bytes(job.format) == b'"anthropic"'
        wire_format = WireFormat.ANTHROPIC if is_anthropic else WireFormat.OPENAI
        request = read_request(bytes(job.request), wire_format)
        header = JobHeader(
            job_id=job_id,
            model_id=to_line(job.model_id),
            format=wire_format,
            request_bytes=len(request.body),
            deadline_ms=_deadline_ms(job.deadline_ms),
            operation=request.operation,
            add_usage=request.add_usage,
        )
        return [header, RequestChunk(job_id, 0, request.body)]


def _welcome(message: messages.AuthOk) -> Welcome:
    """Return what `auth_ok` means: no resumption, and a window that bounds each job's memory."""
    return Welcome(
        provider_id=to_line(message.provider_id or ""),
        session_id=bytes(16),
        heartbeat_ms=HEARTBEAT_MS,
        resume_ms=0,
        window_bytes=WINDOW_BYTES,
        max_message_bytes=MAX_MESSAGE_TO_COORDINATOR_BYTES,
    )


def _deadline_ms(value: msgspec.Raw) -> int:
    try:
        deadline_ms = _COUNT_DECODER.decode(value)
    except ValueError:
        return DEFAULT_DEADLINE_MS
    return min(deadline_ms, MAX_DEADLINE_MS) if deadline_ms >= 0 else DEFAULT_DEADLINE_MS
