"""The messages of a takeover; see `takeover`."""

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from provider_agent.coordinator.cluster.messages import (
    MAX_MESSAGE_BYTES,
    CoordinatorId,
    PublicKey,
    WindowBytes,
    decode_as,
)
from provider_agent.protocol.frames import JobHeader, LiveJob
from provider_agent.protocol.frames.fields import Offset, SessionId
from provider_agent.protocol.limits import MAX_LIVE_JOBS


class TakeoverRequest(Struct, array_like=True, frozen=True):
    """From the new holder: an agent wants to continue a session.

    Attributes:
        sender: the new holder.
        public_key: the agent's proven identity.
        session_id: the session that its `Hello` names.
        live_jobs: the jobs that its `Hello` lists.
    """

    sender: CoordinatorId
    public_key: PublicKey
    session_id: SessionId
    live_jobs: Annotated[list[LiveJob], Meta(max_length=MAX_LIVE_JOBS)]


class TakenJob(Struct, array_like=True, frozen=True):
    """A job that continues at the new holder.

    Attributes:
        header: the job, with the time that remains as its deadline. Its agent has the request.
        received: every byte of the response before this offset has arrived at the edge.
        consumed: every byte before this offset was passed on to the client.
        window_bytes: how many bytes of the response may be unacknowledged.
    """

    header: JobHeader
    received: Offset
    consumed: Offset
    window_bytes: WindowBytes


class TakeoverAnswer(Struct, array_like=True, frozen=True):
    """From an edge: its jobs that continue.

    Attributes:
        sender: the edge.
        jobs: the jobs; those that would make the message too big are left out, and end.
    """

    sender: CoordinatorId
    jobs: Annotated[list[TakenJob], Meta(max_length=MAX_LIVE_JOBS)]


MAX_ANSWER_BYTES: Final = MAX_MESSAGE_BYTES // 2

_ENCODER = msgspec.msgpack.Encoder()
_REQUEST = msgspec.msgpack.Decoder(TakeoverRequest)
_ANSWER = msgspec.msgpack.Decoder(TakeoverAnswer)


def encode_takeover(message: TakeoverRequest | TakeoverAnswer) -> bytes:
    """Encode one message."""
    return _ENCODER.encode(message)


def fitting(jobs: Iterable[TakenJob]) -> list[TakenJob]:
    """Return the first jobs, as many as fit into one answer."""
    kept: list[TakenJob] = []
    size = 0
    for job in jobs:
        size += len(_ENCODER.encode(job))
        if size > MAX_ANSWER_BYTES:
            break
        kept.append(job)
    return kept


def decode_request(message: bytes) -> TakeoverRequest:
    """Decode a request.

    Raises:
        MalformedPeerMessage: it is invalid or too big.
    """
    return decode_as(_REQUEST, message)


def decode_answer(message: bytes) -> TakeoverAnswer:
    """Decode an answer; raises as `decode_request` does."""
    return decode_as(_ANSWER, message)
