"""The kit as an agent of the dialect `usepod`, which dials the coordinator under test.

The cases work on frames of version 1. A `job` is a header and its whole request; `JobStarted` is
not sent, and offsets are left out.
"""

import json
import uuid
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from websockets.asyncio.client import ClientConnection

from provider_agent.conformance.agent_peer import VERSION, AgentPeer, Process
from provider_agent.conformance.case import NotHeld
from provider_agent.conformance.peer import ANSWER_S, Frame
from provider_agent.protocol.codec import Decoded
from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import (
    Ack,
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
    Rejected,
    RequestChunk,
    Welcome,
)
from provider_agent.protocol.limits import MAX_INTEGER
from provider_agent.protocol.usepod import agent_messages, messages
from provider_agent.protocol.usepod.dialect import HEARTBEAT_MS
from provider_agent.protocol.usepod.error_codes import ERROR_CODES
from provider_agent.protocol.usepod.job_ids import uuid_text
from provider_agent.protocol.usepod.offers import offered_capabilities
from provider_agent.protocol.usepod.skipped import types_of

PRICE: Final = 1_000_000
"""The price of each offered model, in millionths of a US dollar per million tokens."""


class _Any(Struct, frozen=True):
    type: str


class _Job(Struct, tag="job", frozen=True):
    job_id: str
    model_id: str
    request: msgspec.Raw
    format: str = "openai"
    deadline_ms: int = 60_000


_Message = (
    messages.AuthChallenge | messages.AuthOk | messages.AuthFailed | _Job | messages.JobCancel
)
_DECODER: Final = msgspec.json.Decoder(_Message)
_ANY_DECODER: Final = msgspec.json.Decoder(_Any)
_OBJECT_DECODER: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_KNOWN: Final = types_of(_Message)


class UsepodAgentPeer(AgentPeer):
    """The kit's end of a connection to the coordinator under test.

    Attributes:
        more: fields that are added to each message that is sent.
    """

    def __init__(
        self, socket: ClientConnection, process: Process, answer_s: float = ANSWER_S
    ) -> None:
        super().__init__(socket, process, answer_s, decode=_decode)
        self.more: dict[str, object] = {}

    def signed_bytes(self, _authority: str, nonce: bytes) -> bytes:
        """What `auth_response` signs: the nonce, and no address."""
        return nonce

    async def send(self, *frames: Frame) -> None:
        """Send the message of each frame, whether the dialect allows it or not."""
        self._record(frames)
        for frame in frames:
            message = _message(frame)
            if message is not None:
                await self.send_raw(json.dumps(msgspec.to_builtins(message) | self.more))

    async def expect_answer(self) -> Welcome | Rejected:
        """Wait for `auth_ok` or `auth_failed`; a connection that ends instead is a rejection."""
        try:
            return await super().expect_answer()
        except NotHeld as error:
            if self.defect or not self.closed.is_set():
                raise
            return Rejected("closed", str(error))

    async def expect_close(self, *_codes: int, within_s: float | None = None) -> str:
        """Wait for the end of the connection, with any close code: the dialect names none."""
        await self.expect_end_of_connection(within_s)
        return "the connection ended"

    async def expect_final_ack(self, job_id: bytes, total_bytes: int) -> Ack:
        """Wait until the end of a job has arrived; the dialect does not acknowledge it."""
        await self.settle()
        return Ack(job_id, total_bytes, final=True)


def _decode(message: bytes | str, _max_bytes: int) -> Decoded[CoordinatorFrame]:
    """Decode a message of the coordinator; one of an unknown type has no frames.

    Raises:
        ProtocolViolation: it is binary, or not well-formed.
    """
    if not isinstance(message, str):
        raise ProtocolViolation("a binary message")
    try:
        kind = _ANY_DECODER.decode(message).type
        if kind not in _KNOWN:
            return Decoded([], [kind])
        return Decoded(_frames(_DECODER.decode(message)), [])
    except (ValueError, RecursionError) as error:
        raise ProtocolViolation(f"a malformed message: {error}") from error


def _frames(message: _Message) -> list[CoordinatorFrame]:
    match message:
        case messages.AuthChallenge():
            return [Challenge(message.nonce, "")]
        case messages.AuthOk():
            return [_welcome(message)]
        case messages.AuthFailed():
            return [Rejected("auth_failed", message.reason or "")]
        case messages.JobCancel():
            return [Cancel(_job_id(message.job_id))]
    job_id, request = _job_id(message.job_id), bytes(message.request)
    _OBJECT_DECODER.decode(request)
    header = JobHeader(
        job_id=job_id,
        model_id=message.model_id,
        format=message.format,
        request_bytes=len(request),
        deadline_ms=message.deadline_ms,
        operation="",
    )
    return [header, RequestChunk(job_id, 0, request)]


def _welcome(message: messages.AuthOk) -> Welcome:
    return Welcome(
        provider_id=message.provider_id or "",
        session_id=bytes(16),
        heartbeat_ms=HEARTBEAT_MS,
        resume_ms=0,
        window_bytes=MAX_INTEGER,
        max_message_bytes=MAX_INTEGER,
    )


def _job_id(text: str) -> bytes:
    """Return the bytes of a job id; raises `ValueError` if it is not a UUID in its usual form."""
    job_id = uuid.UUID(text).bytes
    if uuid_text(job_id) != text:
        raise ValueError(f"the job id {text}")
    return job_id


def _message(frame: Frame) -> Struct | None:
    """Return the message of an agent's frame; None if the dialect has none."""
    match frame:
        case Hello():
            return agent_messages.auth_response(frame)
        case Capabilities():
            priced = [
                replace(one, input_price_per_1m=PRICE, output_price_per_1m=PRICE)
                for one in frame.models
            ]
            return offered_capabilities(replace(frame, models=priced), VERSION)
        case Heartbeat():
            return agent_messages.heartbeat(frame, None)
        case Chunk():
            return messages.JobChunk(uuid_text(frame.job_id), frame.data)
        case JobResult():
            return agent_messages.job_done(uuid_text(frame.job_id), frame)
        case JobError():
            failed = agent_messages.job_failed(uuid_text(frame.job_id), frame)
            is_unknown = frame.code not in ERROR_CODES
            return replace(failed, error_code=frame.code) if is_unknown else failed
    return None
