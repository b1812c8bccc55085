"""The coordinator's state of one agent's connection, and the jobs that the agent runs. No I/O.

`AgentLink` feeds received messages to `receive_message`, which never waits. Frames to send are
queued; `wake` makes the link's writer call `next_frames`. The HTTP side submits jobs, counts the
bytes that it passed on to clients, and abandons jobs whose client disconnected.
"""

import base64
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from msgspec.structs import replace

from provider_agent.coordinator.agents.agent_jobs import AgentJobs, CreateJob, JobT
from provider_agent.coordinator.agents.close_reason import (
    HANDED_OVER,
    REJECTED,
    REPLACED_BY_NEWER,
    CloseReason,
)
from provider_agent.coordinator.agents.handshake import Handshake, welcome
from provider_agent.coordinator.agents.heartbeats import LatestHeartbeat
from provider_agent.coordinator.agents.notices import REPLACED
from provider_agent.coordinator.agents.offer_check import (
    check_offers,
    replaced_status,
    unroutable,
)
from provider_agent.coordinator.agents.registry import AgentRegistry
from provider_agent.coordinator.connections.limited_log import LimitedLog
from provider_agent.coordinator.sessions.detached_session import DetachedSession
from provider_agent.coordinator.sessions.end_log import log_end
from provider_agent.coordinator.sessions.offers import OfferTable
from provider_agent.coordinator.sessions.receipt_check import check_receipt
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.codec import VERSION_1, CoordinatorDialect
from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
from provider_agent.protocol.frames import (
    AgentFrame,
    Capabilities,
    Chunk,
    Drain,
    Draining,
    Heartbeat,
    Hello,
    JobEnd,
    JobError,
    JobResult,
    JobStarted,
    Rejected,
    Welcome,
)
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import (
    MAX_MESSAGE_TO_COORDINATOR_BYTES,
    MIN_MESSAGE_TO_COORDINATOR_BYTES,
)
from provider_agent.protocol.receipts import FEATURE
from provider_agent.protocol.state import State

RECONNECT_AFTER_MS: Final = 5_000
"""How long an agent waits before it reconnects to a coordinator that stops. Agents add a
random delay of at most the same length, so that they do not all reconnect at once."""


class ConnectedAgent:
    """One agent's connection, from the open WebSocket to its end.

    Args:
        protocol: the protocol state of this connection, with an unused nonce.
        session_id: 16 bytes for `Welcome`, unless the agent resumes an older session.
        registry: admits the agent and keeps track of it.
        settings: the coordinator's settings.
        clock: monotonic, in seconds.
        wake: called when frames are queued.
        close: called to close the connection.
        check_alive: called with a callback; checks whether the agent responds, then calls the
            callback with the answer.
        remote: the agent's network address.
        dialect: the wire encoding of this connection.

    Attributes:
        public_key: the agent's identity; empty before its signature is verified.
        session_id: stays the same across connections.
        log: the agent's log; None before it is admitted.
        rejection: the `Rejected` that was sent; None if none was.
        instance_id: the id of the agent's process, from `Hello`.
        agent_version: the version of the agent's software, from `Hello`.
        connected_at: when the connection opened, in seconds of `clock`.
        resumed: whether this connection resumed a session.
        retired: whether another connection of the same key receives the new jobs.
        offers: the latest offers; None before the first `Capabilities`.
        heartbeat: the latest heartbeat.
        draining: whether the agent accepts no more jobs.
        overdue: whether its heartbeat is overdue, so that it may be lost.
        unknown_frames: how many received frames had a type that this version does not know.
    """

    def __init__(
        self,
        *,
        protocol: CoordinatorProtocol,
        session_id: bytes,
        registry: AgentRegistry,
        settings: CoordinatorSettings,
        clock: Callable[[], float],
        wake: Callable[[], None],
        close: Callable[[CloseReason], None],
        check_alive: Callable[[Callable[[bool], None]], None],
        remote: str,
        dialect: CoordinatorDialect = VERSION_1,
    ) -> None:
        self.public_key = b""
        self.session_id = session_id
        self.log: LimitedLog | None = None
        self.rejection: Rejected | None = None
        self.instance_id = ""
        self.resumed = False
        self.retired = False
        self.offers: OfferTable | None = None
        self.heartbeat = LatestHeartbeat(settings.heartbeat_ms / 1000, clock)
        self.draining = False
        self.overdue = False
        self.unknown_frames = 0
        self.close = close
        self.check_alive = check_alive
        self.remote = remote
        self.agent_version = ""
        self.connected_at = clock()
        self._dialect = dialect
        self._protocol = protocol
        self._registry = registry
        self._settings = settings
        self._clock = clock
        self._wake = wake
        self._jobs = AgentJobs(
            protocol,
            clock,
            wake,
            self._close_if_retired,
            max_unread_bytes=dialect.max_unread_bytes,
        )
        self._handshake = Handshake(
            protocol,
            registry,
            clock,
            remote=remote,
            session_id=session_id,
            is_over=lambda: self._detached,
            admitted=self._admitted,
            rejected_late=self._rejected_late,
            replaced=lambda: self.close(REPLACED_BY_NEWER),
        )
        self._detached = False
        self._unroutable_logged = False

    def __repr__(self) -> str:
        name = self.name or "unauthenticated"
        state = "retired" if self.retired else self.state
        return f"<ConnectedAgent {name} {state} jobs={self.in_flight} offers={self.offers}>"

    @property
    def name(self) -> str:
        """The public key in base64; empty before the agent's signature is verified."""
        return base64.b64encode(self.public_key).decode()

    @property
    def dialect_name(self) -> str:
        """The dialect of this connection."""
        return self._dialect.name

    @property
    def state(self) -> State:
        """The state of the connection."""
        return self._protocol.state

    @property
    def queued_frames(self) -> int:
        """How many control frames are queued."""
        return len(self._protocol.to_send)

    @property
    def in_flight(self) -> int:
        """Jobs without an end, including cancelled ones."""
        return len(self._jobs)

    def in_flight_of(self, model_id: str) -> int:
        """Jobs of one model without an end, including cancelled ones."""
        return self._jobs.count(model_id)

    @property
    def sends_receipts(self) -> bool:
        """Whether the ends of its jobs have receipts."""
        return FEATURE in self._protocol.features

    def has_job(self, job_id: bytes) -> bool:
        """Whether a job with this id has no end, even if it was cancelled."""
        return job_id in self._protocol.streams

    @property
    def send_queue_full(self) -> bool:
        """Whether too many bytes of requests are queued for the agent."""
        return self._jobs.send_queue_full

    # --- called by the HTTP side ------------------------------------------------------------------

    def submit(self, job: Job) -> RunningJob:
        """Queue a job.

        Call it after routing without an `await` in between, so that the agent is still connected.
        """
        return self._jobs.start(job, self.public_key, RunningJob)

    def start(self, job: Job, create: CreateJob[JobT]) -> JobT:
        """Queue a job as `submit` does; `create` creates the object that receives the response."""
        return self._jobs.start(job, self.public_key, create)

    # --- called by the registry -------------------------------------------------------------------

    def send_drain(self, reason: str, reconnect_after_ms: int = RECONNECT_AFTER_MS) -> None:
        """Ask the agent to finish its jobs and reconnect, because the coordinator stops."""
        if self.state is State.OPEN:
            self._protocol.to_send.append(Drain(reason, reconnect_after_ms))
            self._wake()

    def hand_over(self) -> None:
        """Close the connection if jobs run on it, so that the agent resumes them elsewhere."""
        if not self._jobs.idle:
            self.close(HANDED_OVER)

    def retire(self) -> None:
        """Close this connection when its last job ends; another connection receives new jobs."""
        self.retired = True
        if self.state is State.OPEN:
            self._protocol.to_send.append(REPLACED)
            if self.offers is not None:
                self._protocol.to_send.append(replaced_status(self.offers))
            self._wake()
        self._close_if_retired()

    def detach(self) -> DetachedSession:
        """Move the jobs out of this connection; frames that arrive later are ignored.

        This connection must not acknowledge an end that arrives later: the agent would forget the
        job, and the next connection would never receive its end.
        """
        self._detached = True
        detached = self._jobs.detach()
        return DetachedSession(
            public_key=self.public_key,
            session_id=self.session_id,
            instance_id=self.instance_id,
            retired=self.retired,
            draining=self.draining,
            offers=self.offers,
            jobs=detached.jobs,
            streams=detached.streams,
            counts=detached.counts,
            ended=self._protocol.ended,
        )

    def leave(self, *, keep_session: bool = False) -> None:
        """Leave the registry, because the connection ends. Does nothing after `detach`.

        Args:
            keep_session: whether the agent may resume the session; otherwise its jobs fail.
        """
        if not self._detached:
            may_return = keep_session
            keep_session = keep_session and self._settings.resume_ms > 0
            if not keep_session:
                self._jobs.cancel_all()
            session = self.detach()
            session.may_return = may_return
            self._registry.leave(self, session, keep_session=keep_session)

    def set_overdue(self, overdue: bool) -> None:
        """Record whether the agent may be lost; jobs without output then move to other agents."""
        if overdue is not self.overdue:
            self.overdue = overdue
            self._jobs.set_lost(overdue)
            self._registry.capacity_changed()
            event = "agent overdue" if overdue else "agent responds again"
            self._log(logging.INFO, event)

    # --- called by the link -----------------------------------------------------------------------

    def receive_message(self, message: bytes | str) -> None:
        """Process one WebSocket message.

        Raises:
            ProtocolError: the message is malformed or too big, or one of its frames breaks a rule
                of the protocol; the caller closes the connection.
        """
        if self._detached:
            return
        # Before its agent is admitted, a connection may use only little memory.
        is_open = self.state is State.OPEN
        limit = MAX_MESSAGE_TO_COORDINATOR_BYTES if is_open else MIN_MESSAGE_TO_COORDINATOR_BYTES
        decoded = self._dialect.decode_from_agent(message, limit)
        if decoded.unknown_types:
            self._count_unknown(decoded.unknown_types)
        self._receive(decoded.frames)
        self._wake_if_queued()

    def _receive(self, frames: Iterable[AgentFrame]) -> None:
        for frame in frames:
            if (accepted := self._protocol.receive(frame)) is not None:
                self._on_frame(accepted)
            if self.state is State.CLOSED:
                self._note_rejection()
                break

    def next_messages(self, limit_bytes: int) -> Sequence[bytes]:
        """Encode and return the next messages, of about `limit_bytes`; empty if none are queued."""
        messages: Sequence[bytes] = ()
        while not messages and (frames := self._protocol.next_frames(limit_bytes)):
            messages = self._dialect.encode_messages(frames)
            if self._dialect.take_frames is not None and not self._detached:
                self._receive(self._dialect.take_frames())
        return messages

    def acknowledge(self) -> bool:
        """Acknowledge all bytes that were passed on; return whether others remain."""
        remain = self._protocol.acknowledge()
        self._wake_if_queued()
        return remain

    def _wake_if_queued(self) -> None:
        if self._protocol.to_send:
            self._wake()

    def _close_if_retired(self) -> None:
        if self.retired and self._jobs.idle:
            self.close(replace(REPLACED_BY_NEWER, flush=True))

    def _note_rejection(self) -> None:
        for frame in self._protocol.to_send:
            if isinstance(frame, Rejected):
                self.rejection = frame

    def _count_unknown(self, types: Sequence[int | str]) -> None:
        if not self.unknown_frames:
            self._log(logging.WARNING, "unknown frame type skipped", frame_type=types[0])
        self.unknown_frames += len(types)

    def _on_frame(self, frame: AgentFrame) -> None:
        match frame:
            case Chunk():
                self._jobs.on_chunk(frame)
            case JobStarted():
                self._jobs.on_started(frame)
            case JobResult() | JobError():
                self._on_end(frame)
            case Heartbeat():
                self.heartbeat.receive(frame)
            case Capabilities():
                self._on_capabilities(frame)
            case Draining() if not self.draining:  # the agent repeats it on each new connection
                self.draining = True
                self._log(logging.INFO, "agent draining", jobs=self.in_flight)
            case Hello():
                self._on_hello(frame)

    def _on_capabilities(self, frame: Capabilities) -> None:
        older = self.offers
        self.offers, answer = check_offers(
            frame,
            max_price=self._settings.max_price,
            replaced=self.retired,
            only_streams=self._dialect.only_streams,
        )
        self._protocol.to_send += answer
        if self.offers.unroutable and not (self.retired or self._unroutable_logged):
            self._unroutable_logged = True  # once, however often the offers change
            self._log(logging.WARNING, "offered models receive no jobs", **unroutable(self.offers))
        self._registry.offers_changed(self.public_key, self.offers.changed_models(older))

    def _on_end(self, end: JobEnd) -> None:
        job, sent = self._jobs.end(end)
        if sent is None:
            return  # repeated on a new link, because it is held and not acknowledged
        log_end(end, self.name, abandoned=job is None)
        if job is not None:
            end = check_receipt(job, end, self.public_key)
        duration_s = self._clock() - sent.sent_at
        self._registry.job_ended(self.public_key, sent.model_id, end, duration_s)
        if job is not None:
            job.on_end(end)
        self._close_if_retired()

    def _on_hello(self, hello: Hello) -> None:
        self.public_key, self.instance_id = hello.public_key, hello.instance_id
        self.agent_version = hello.agent_version
        self._handshake.start(hello)

    def _rejected_late(self) -> None:
        """Close the connection, because the agent was rejected after a check."""
        self._note_rejection()
        self.close(REJECTED)

    def _admitted(self, hello: Hello, detached: DetachedSession | None) -> None:
        """Send `Welcome`, and join the registry."""
        self.log = self._registry.log_of(self.public_key)
        if detached is None:
            self._protocol.accept(self._welcome())
        else:
            self._resume(detached, hello)
        self._registry.join(self)
        self._wake()
        self._log(
            logging.INFO,
            "agent connected",
            version=hello.agent_version,
            dialect=self.dialect_name,
            session=self.session_id.hex(),
            resumed=self.resumed,
            jobs=self.in_flight,
        )

    def _log(self, level: int, event: str, **fields: object) -> None:
        if self.log is not None:  # peers that are not admitted could fill the log
            self.log.log(level, event, agent=self.name, **fields)

    def _resume(self, detached: DetachedSession, hello: Hello) -> None:
        """Send `Welcome` and take over the jobs of the session."""
        self.resumed = True
        self.session_id, self.retired = detached.session_id, detached.retired
        # The agent repeats `Draining` and `Capabilities`; until then the old values apply.
        self.draining, self.offers = detached.draining, detached.offers
        self._jobs.resume(
            detached,
            hello.live_jobs,
            lambda resumption: self._protocol.accept(self._welcome(), resumption),
        )

    def _welcome(self) -> Welcome:
        return welcome(self._settings, self.name, self.session_id)
