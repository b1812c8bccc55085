"""Translates the messages of the dialect `usepod` to frames and back, for one connection.

The cases work on frames of version 1. What the dialect lacks is added: offsets are counted, and a
response starts with its first message.
"""

import base64
import json
import uuid
from collections.abc import Sequence
from typing import Final

import msgspec

from provider_agent.protocol.codec import Decoded
from provider_agent.protocol.exceptions import ProtocolViolation
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
from provider_agent.protocol.usepod import messages
from provider_agent.protocol.usepod.job_ids import uuid_text

_AgentMessage = (
    messages.AuthResponse
    | messages.OfferedCapabilities
    | messages.AgentHeartbeat
    | messages.JobChunk
    | messages.JobDone
    | messages.JobFailed
)
_DECODER: Final = msgspec.json.Decoder(_AgentMessage)


class UsepodMessages:
    """The messages of one connection from an agent."""

    def __init__(self) -> None:
        self._revision = 0
        self._received: dict[bytes, int] = {}
        """The bytes of each response that has begun."""
        self._headers: dict[bytes, JobHeader] = {}
        self._requests: dict[bytes, bytearray] = {}

    def __repr__(self) -> str:
        return f"<UsepodMessages responses={len(self._received)}>"

    # --- from the agent ---------------------------------------------------------------------------

    def decode(self, message: bytes | str, _max_bytes: int) -> Decoded[AgentFrame]:
        """Decode a message of the agent.

        Raises:
            ProtocolViolation: it is binary, or no well-formed message of a known type.
        """
        if not isinstance(message, str):
            raise ProtocolViolation("a binary message")
        try:
            return Decoded(self._frames(_DECODER.decode(message)), [])
        except (ValueError, RecursionError) as error:
            raise ProtocolViolation(f"a malformed message: {error}") from error

    def _frames(self, message: _AgentMessage) -> list[AgentFrame]:
        match message:
            case messages.AuthResponse():
                code = message.enrollment_code or ""
                return [Hello(message.agent_version, message.pubkey, message.signature, code)]
            case messages.OfferedCapabilities():
                return [self._capabilities(message)]
            case messages.AgentHeartbeat():
                return [
                    Heartbeat(
                        in_flight=message.queue_depth,
                        queued=message.queue_depth,
                        capacity=0,
                        tokens_per_second=message.tokens_per_sec_p50,
                        first_byte_p50_ms=message.p50_latency_ms,
                        first_byte_p95_ms=message.p95_latency_ms,
                        error_rate=message.error_rate_60s,
                    )
                ]
        job_id = uuid.UUID(message.job_id).bytes
        frames: list[AgentFrame] = []
        if job_id not in self._received and not isinstance(message, messages.JobFailed):
            frames.append(JobStarted(job_id, 200, "text/event-stream", ""))
        received = self._received.setdefault(job_id, 0)
        match message:
            case messages.JobChunk():
                self._received[job_id] += len(message.data)
                frames.append(Chunk(job_id, received, message.data))
            case messages.JobDone():
                usage = Usage(message.tokens.input_tokens, message.tokens.output_tokens)
                frames.append(JobResult(job_id, received, usage, "", message.duration_ms, None))
            case messages.JobFailed():
                sent, code = message.tokens_emitted, message.error_code
                frames.append(JobError(job_id, sent, code, message.message))
        return frames

    def _capabilities(self, message: messages.OfferedCapabilities) -> Capabilities:
        self._revision += 1
        offers = [
            ModelOffer(
                model_id=one.model_id,
                formats=["openai"],
                operations=["chat"],
                context_window=one.context_window or None,
                native=True,
                backend_kind=one.backend,
                max_concurrent=one.max_concurrent,
                input_price_per_1m=one.input_per_1m,
                output_price_per_1m=one.output_per_1m,
            )
            for one in message.models
        ]
        limits = message.limits
        return Capabilities(
            self._revision,
            offers,
            AgentLimits(limits.max_concurrent_total, limits.max_tokens_per_minute),
        )

    # --- to the agent -----------------------------------------------------------------------------

    def encode(self, frames: Sequence[AgentFrame | CoordinatorFrame]) -> list[str]:
        """Return the messages of these frames; the dialect has none for some of them."""
        found = [message for frame in frames if (message := self._message(frame)) is not None]
        return [json.dumps(message) for message in found]

    def _message(self, frame: AgentFrame | CoordinatorFrame) -> dict[str, object] | None:
        match frame:
            case Challenge():
                nonce = base64.b64encode(frame.nonce).decode()
                return {"type": "auth_challenge", "nonce": nonce}
            case Welcome():
                return {"type": "auth_ok", "provider_id": frame.provider_id}
            case Rejected():
                return {"type": "auth_failed", "reason": frame.message}
            case Cancel():
                return {"type": "job_cancel", "job_id": uuid_text(frame.job_id)}
            case JobHeader():
                self._headers[frame.job_id] = frame
                self._requests[frame.job_id] = bytearray()
            case RequestChunk() if frame.job_id in self._headers:
                return self._job(frame)
        return None

    def _job(self, chunk: RequestChunk) -> dict[str, object] | None:
        """Return the message of a job whose request is now complete."""
        request = self._requests[chunk.job_id]
        request += chunk.data
        header = self._headers[chunk.job_id]
        if len(request) < header.request_bytes:
            return None
        del self._headers[chunk.job_id], self._requests[chunk.job_id]
        return {
            "type": "job",
            "job_id": uuid_text(header.job_id),
            "model_id": header.model_id,
            "request": json.loads(request),
            "format": header.format,
            "deadline_ms": header.deadline_ms,
        }
