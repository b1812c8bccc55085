"""The takeover of a session: its agent has reconnected to another coordinator.

The new holder asks each coordinator that may know something of the agent's live jobs: the one that
had the session, and the edge of each job. An edge answers with the jobs that continue, and from
then on expects their frames from the new holder. Nothing is stored: if the older holder has
crashed, the edges suffice. A job that no edge answers for is cancelled by the agent.
"""

import functools
import logging
from collections.abc import Callable, Iterable

from provider_agent.coordinator.cluster.edge import EdgeJobs
from provider_agent.coordinator.cluster.holder import HolderJobs
from provider_agent.coordinator.cluster.ids import process_of, tag_of
from provider_agent.coordinator.cluster.messages import MalformedPeerMessage
from provider_agent.coordinator.cluster.relayed_job import RelayedJob
from provider_agent.coordinator.cluster.takeover_messages import (
    TakenJob,
    TakeoverAnswer,
    TakeoverRequest,
    decode_answer,
    decode_request,
    encode_takeover,
)
from provider_agent.coordinator.cluster.view import ClusterView
from provider_agent.coordinator.connections.limited_log import LimitedLog
from provider_agent.coordinator.sessions.detached_session import (
    DetachedSession,
    new_session,
    not_received,
)
from provider_agent.event_log import EventLogger
from provider_agent.protocol.frames import Hello

log = EventLogger(__name__)

AskCoordinator = Callable[[bytes, bytes, Callable[[bytes | None], None]], None]
"""Sends a request to a coordinator; later calls a function with the answer, or with None."""

ReleaseSession = Callable[[bytes, bytes, list[bytes]], DetachedSession | None]
"""`Fleet.release`."""


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


class Takeovers:
    """The takeovers of this coordinator, as the new holder, the older holder and an edge.

    Args:
        own_id: this coordinator.
        view: the other coordinators.
        edge: the jobs that were sent to other coordinators.
        holder: the jobs of other coordinators.
        is_connected: returns whether messages can be sent now.
        release: removes the session of an agent that resumes it at another coordinator.
        ask: sends a request to a coordinator.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        own_id: bytes,
        view: ClusterView,
        edge: EdgeJobs,
        holder: HolderJobs,
        *,
        is_connected: Callable[[], bool],
        release: ReleaseSession,
        ask: AskCoordinator,
        clock: Callable[[], float],
    ) -> None:
        self._own_id = own_id
        self._view = view
        self._edge = edge
        self._holder = holder
        self._is_connected = is_connected
        self._release_session = release
        self._ask = ask
        self._log = LimitedLog(log, clock)
        self._incomplete: dict[bytes, list[Takeover]] = {}
        """The takeovers whose answers have not all arrived, by public key."""

    def __repr__(self) -> str:
        return f"<Takeovers incomplete={sum(map(len, self._incomplete.values()))}>"

    def start(
        self, hello: Hello, session_id: bytes, done: Callable[[DetachedSession | None], None]
    ) -> bool:
        """Ask for the jobs of a session that an agent resumes here.

        Arguments and result are those of `RemoteAgents.take_over`.
        """
        resumed_id = hello.session_id
        if resumed_id is None:
            return False
        tags = {tag_of(resumed_id), *(tag_of(job.job_id) for job in hello.live_jobs)}
        asked = set(self._view.find(tags)) if self._is_connected() else set()
        if (holder := self._view.holder_of(hello.public_key)) is not None:
            asked.add(holder)
        if not asked and tag_of(self._own_id) not in tags:
            return False
        request = TakeoverRequest(self._own_id, hello.public_key, resumed_id, hello.live_jobs)
        session = new_session(hello.public_key, session_id, hello.instance_id)
        self._release(request)
        for moved in self._edge.remove(request):
            session.add(moved)
        self._holder.expect(live.job_id for live in hello.live_jobs)
        takeover = Takeover(request, session, asked, done)
        if takeover.complete():
            return True
        self._incomplete.setdefault(hello.public_key, []).append(takeover)

        def answered(coordinator: bytes, message: bytes | None) -> None:
            for taken in takeover.accept(coordinator, self._decode_answer(message)):
                self._holder.take_over(coordinator, taken, session)
            if takeover in self._incomplete.get(hello.public_key, ()) and takeover.complete():
                self._forget(takeover)

        message = encode_takeover(request)
        for coordinator in asked:
            self._ask(coordinator, message, functools.partial(answered, coordinator))
        return True

    def _decode_answer(self, message: bytes | None) -> TakeoverAnswer | None:
        if message is None:
            return None
        try:
            return decode_answer(message)
        except MalformedPeerMessage as error:
            self._log.log(logging.WARNING, "malformed cluster message", error=str(error))
            return None

    def answer(self, message: bytes) -> bytes:
        """Release what this coordinator has of a session; return the answer.

        Raises:
            MalformedPeerMessage: the message is invalid.
        """
        request = decode_request(message)
        if request.sender == self._own_id:
            raise MalformedPeerMessage("a request of this coordinator")
        jobs: list[TakenJob] = []
        if self._view.hear(request.sender):  # its first snapshot may still be on its way
            self._release(request)
            jobs = self._edge.move(request)
        return encode_takeover(TakeoverAnswer(self._own_id, jobs))

    def _release(self, request: TakeoverRequest) -> None:
        """Release a session that is stored here, or whose older connection has not ended yet.

        Or its agent has connected here, and then again, before all answers had arrived.
        """
        listed = [job.job_id for job in request.live_jobs]
        session = self._release_session(request.public_key, request.session_id, listed)
        if session is not None:
            self._release_jobs(session, listed, request.sender)
        for takeover in list(self._incomplete.get(request.public_key, ())):
            if takeover.overlaps(request):
                self._forget(takeover)
                self._release_jobs(takeover.cancel(), listed, request.sender)

    def _forget(self, takeover: Takeover) -> None:
        public_key = takeover.session.public_key
        self._incomplete[public_key].remove(takeover)
        if not self._incomplete[public_key]:
            del self._incomplete[public_key]

    def _release_jobs(self, session: DetachedSession, listed: list[bytes], holder: bytes) -> None:
        """Let the listed jobs of a session continue at another holder; the others end.

        The agent does not run a job that it does not list. If it has not started, it is sent again.
        """
        for job_id in listed:
            if (moved := session.remove(job_id)) is None:
                continue
            if isinstance(moved.job, RelayedJob):
                self._holder.release(moved.job)  # its edge is asked too
            else:
                self._edge.add(moved, holder, process_of(session.instance_id))
        for job in session.jobs.values():
            if job.started is None:
                job.on_end(not_received(job.job_id))
        session.end()
