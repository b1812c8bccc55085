"""The takeover of a session: its agent has reconnected to another coordinator.

The new holder asks each coordinator that may know something of the agent's live jobs: the one that
had the session, and the edge of each job. An edge answers with the jobs that continue, and from
then on expects their frames from the new holder. Nothing is stored: if the older holder has
crashed, the edges suffice. A job that no edge answers for is cancelled by the agent.
"""

from collections.abc import Callable, Iterable
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
from provider_agent.coordinator.sessions.detached_session import DetachedSession
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


class Takeover:
    """A takeover whose answers have not all arrived.

    Args:
        request: the request.
        session: the session that the agent resumes; it has the jobs that continue.
        asked: the coordinators that were asked.
        on_complete: called with the session when no answer is missing, or with None by `cancel`.
    """

    def __init__(
        self,
        request: TakeoverRequest,
        session: DetachedSession,
        asked: Iterable[bytes],
        on_complete: Callable[[DetachedSession | None], None],
    ) -> None:
        self.session = session
        self._session_id = request.session_id
        self._listed = {live.job_id for live in request.live_jobs}
        self._missing = set(asked)
        self._on_complete = on_complete

    def __repr__(self) -> str:
        return f"<Takeover missing={len(self._missing)} {self.session!r}>"

    def accept(self, coordinator: bytes, answer: TakeoverAnswer | None) -> list[TakenJob]:
        """Record an answer; None if the coordinator gave none. Each one counts once.

        Returns:
            The jobs that continue: the agent lists each of them, and the session has none of them.
        """
        if coordinator not in self._missing:
            return []
        self._missing.remove(coordinator)
        if answer is None or answer.sender != coordinator:
            return []
        wanted = self._listed - self.session.jobs.keys()
        return [taken for taken in answer.jobs if taken.header.job_id in wanted]

    def overlaps(self, request: TakeoverRequest) -> bool:
        """Whether a request is about the same session, or about jobs of this takeover."""
        return request.session_id == self._session_id or any(
            live.job_id in self._listed for live in request.live_jobs
        )

    def complete(self) -> bool:
        """Call `on_complete` if no answer is missing; return whether it was called."""
        if self._missing:
            return False
        self._on_complete(self.session)
        return True

    def cancel(self) -> DetachedSession:
        """Ignore all later answers, because the agent has connected again; return the session."""
        self._missing.clear()
        self._on_complete(None)
        return self.session
