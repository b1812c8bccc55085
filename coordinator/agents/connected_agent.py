"""What the coordinator knows of one connected agent, and the jobs it runs. No I/O.

Frames come in by `receive_message`, a plain call that never waits; what is to be sent collects in
`waiting` and `wake` tells the writer. The HTTP side submits jobs, says what it has passed on, and
abandons jobs whose client is gone.
"""

import base64
from collections.abc import Callable
from typing import Final, Protocol

from msgspec.structs import replace

from provider_agent.coordinator.agents.batching import frame_bytes, pop_batch
from provider_agent.coordinator.agents.close_reason import REPLACED_BY_NEWER, CloseReason
from provider_agent.coordinator.sessions.detached_session import DetachedSession, fail_missing
from provider_agent.coordinator.sessions.offers import OfferTable
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.event_log import EventLogger
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.frames import (
    AgentFrame,
    Capabilities,
    Chunk,
    CoordinatorFrame,
    Drain,
    Draining,
    Heartbeat,
    Hello,
    Job,
    JobError,
    JobResult,
    JobStarted,
    Rejected,
    Welcome,
)
from provider_agent.protocol.limits import (
    BATCH_BYTES,
    MAX_MESSAGE_TO_COORDINATOR_BYTES,
    MIB,
    MIN_MESSAGE_TO_COORDINATOR_BYTES,
)
from provider_agent.protocol.session import CoordinatorSession, State

log = EventLogger(__name__)

MAX_QUEUED_JOB_BYTES: Final = 64 * MIB
"""Jobs that wait to be sent to one agent: four of the biggest. More go elsewhere."""

RECONNECT_AFTER_MS: Final = 5_000
"""When an agent may come back to a coordinator that stops. It adds as long again at random, and so
spreads a fleet that would otherwise be back within the first second."""

CANCEL_REASON: Final = "the client is gone or the answer is of no use"
"""Why jobs are cancelled, for the agent's log."""


class AgentRegistry(Protocol):
    """Where an agent asks to be admitted, and signs off."""

    def admit(self, hello: Hello) -> Rejected | None:
        """Why this agent may not join; None: it may."""
        ...

    def claim(self, hello: Hello) -> DetachedSession | None:
        """The session that this agent comes back for; from now on it is this agent's alone."""
        ...

    def join(self, agent: "ConnectedAgent") -> None:
        """The agent is welcome; it gets jobs as soon as it has told its models."""
        ...

    def leave(
        self, agent: "ConnectedAgent", session: DetachedSession, *, keep_session: bool
    ) -> None:
        """The agent is gone, or never joined; `session` is what it leaves behind."""
        ...


class ConnectedAgent:
    """One agent, from its open socket to the end of the connection.

    Args:
        session: fresh, with a fresh nonce.
        session_id: 16 bytes for `Welcome`, unless the agent comes back for an older session.
        registry: who admits it.
        settings: the coordinator's.
        clock: seconds, monotonic.
        wake: called when something waits to be sent.
        close: called to end the connection from this side.

    Attributes:
        public_key: its identity; empty before its signature is verified.
        session_id: of its session; keeps its value however often the link breaks.
        instance_id: of its process, as it says.
        resumed: it came back for its session.
        retired: another connection of its key gets the new jobs.
        offers: what it serves; None before it has told.
        heartbeat: its last report.
        last_heartbeat: when that came, by the clock.
        draining: it takes no more jobs.
        unknown_frames: how many frames this version did not know.
    """

    def __init__(
        self,
        *,
        session: CoordinatorSession,
        session_id: bytes,
        registry: AgentRegistry,
        settings: CoordinatorSettings,
        clock: Callable[[], float],
        wake: Callable[[], None],
        close: Callable[[CloseReason], None],
    ) -> None:
        self.public_key = b""
        self.session_id = session_id
        self.instance_id = ""
        self.resumed = False
        self.retired = False
        self.offers: OfferTable | None = None
        self.heartbeat: Heartbeat | None = None
        self.last_heartbeat: float | None = None
        self.draining = False
        self.unknown_frames = 0
        self.close = close
        self._session = session
        self._registry = registry
        self._settings = settings
        self._clock = clock
        self._wake = wake
        self._jobs: dict[bytes, RunningJob] = {}
        self._queued_job_bytes = 0
        self._over = False

    def __repr__(self) -> str:
        who = self.name or "nobody yet"
        state = "retired" if self.retired else self.state
        return f"<ConnectedAgent {who} {state} jobs={self.in_flight} offers={self.offers}>"

    @property
    def name(self) -> str:
        """Its public key in base64; "" before it is verified."""
        return base64.b64encode(self.public_key).decode()

    @property
    def state(self) -> State:
        """Where the connection stands."""
        return self._session.state

    @property
    def queued_frames(self) -> int:
        """Frames that wait to be sent."""
        return len(self._session.to_send)

    @property
    def in_flight(self) -> int:
        """Jobs given to it whose end has not come, cancelled ones included."""
        return len(self._session.streams)

    @property
    def send_queue_full(self) -> bool:
        """Whether too much waits to be sent already."""
        return self._queued_job_bytes > MAX_QUEUED_JOB_BYTES

    # --- for the HTTP side ------------------------------------------------------------------------

    def submit(self, job: Job) -> RunningJob:
        """Give it a job, in the same turn of the loop in which it was chosen."""
        running = RunningJob(job, self, self._clock() + job.deadline_ms / 1000)
        self._start(job, running)
        return running

    def _start(self, job: Job, running: RunningJob) -> None:
        self._session.start_job(job)
        self._jobs[job.job_id] = running
        self._queued_job_bytes += frame_bytes(job)
        self._wake()

    def acknowledge(self, job: RunningJob, count: int) -> None:
        """`count` bytes of the job are with the client; as many more may come."""
        job.unacknowledged -= count
        self._session.consumed(job.job_id, count)
        self._wake_when_waiting()

    def abandon(self, job: RunningJob) -> None:
        """Nobody waits for the job any more; it is cancelled when it still runs."""
        if self._jobs.pop(job.job_id, None) is not None:
            self._session.cancel_job(job.job_id, CANCEL_REASON)
            self._session.consumed(job.job_id, job.unacknowledged)
            self._wake()

    # --- for the fleet ----------------------------------------------------------------------------

    def ask_to_drain(self, reason: str) -> None:
        """Tell it that the coordinator is going away."""
        if self.state is State.OPEN:
            self._session.to_send.append(Drain(reason, RECONNECT_AFTER_MS))
            self._wake()

    def retire(self) -> None:
        """Another connection has its place: once it has finished what it has, it is closed."""
        self.retired = True
        if not self.in_flight:
            self.close(replace(REPLACED_BY_NEWER, flush=True))

    def detach(self) -> DetachedSession:
        """Give everything up to the next connection of the session. This one is over.

        What still comes in on it is not taken: it would be taken twice.
        """
        self._over = True
        jobs, self._jobs = self._jobs, {}
        streams, self._session.streams = self._session.streams, {}
        return DetachedSession(
            public_key=self.public_key,
            session_id=self.session_id,
            instance_id=self.instance_id,
            retired=self.retired,
            draining=self.draining,
            offers=self.offers,
            jobs=jobs,
            streams=streams,
        )

    # --- for the connection -----------------------------------------------------------------------

    def receive_message(self, message: bytes | str) -> None:
        """What came over the wire.

        Raises:
            ProtocolError: it is malformed or not allowed now; the connection is to be closed.
        """
        if self._over:
            return
        # A stranger's bytes are not worth as much memory as those of an agent.
        known = self.state is State.OPEN
        limit = MAX_MESSAGE_TO_COORDINATOR_BYTES if known else MIN_MESSAGE_TO_COORDINATOR_BYTES
        decoded = VERSION_1.decode_from_agent(message, limit)
        if decoded.unknown_types:
            self._count_unknown(decoded.unknown_types)
        for frame in decoded.frames:
            wanted = self._session.receive(frame)
            if wanted is not None:
                self._take_frame(wanted)
            if self.state is State.CLOSED:
                self._log_rejection()
                break
        self._wake_when_waiting()

    def next_batch(self) -> list[CoordinatorFrame]:
        """What the next message to the agent holds; empty when nothing waits."""
        batch = pop_batch(self._session.to_send, BATCH_BYTES)
        self._queued_job_bytes -= sum(frame_bytes(job) for job in batch if isinstance(job, Job))
        return batch

    def leave(self, *, keep_session: bool = False) -> None:
        """The connection is over: leave the fleet with what still runs. May be called again.

        Args:
            keep_session: only the link is lost; the jobs wait for their agent.
        """
        if not self._over:
            self._registry.leave(self, self.detach(), keep_session=keep_session)

    def _wake_when_waiting(self) -> None:
        if self._session.to_send:
            self._wake()

    def _log_rejection(self) -> None:
        for frame in self._session.to_send:
            if isinstance(frame, Rejected):
                fields = {"agent": self.name, "code": frame.code}
                log.warning("agent rejected", **fields)

    def _count_unknown(self, types: list[int]) -> None:
        if not self.unknown_frames:
            fields = {"agent": self.name, "frame_type": types[0]}
            log.warning("unknown frame type skipped", **fields)
        self.unknown_frames += len(types)

    def _take_frame(self, frame: AgentFrame) -> None:
        match frame:
            case Chunk():
                self._on_chunk(frame)
            case JobStarted():
                if frame.job_id in self._jobs:
                    self._jobs[frame.job_id].on_started(frame)
            case JobResult() | JobError():
                job = self._jobs.pop(frame.job_id, None)
                if job is not None:
                    job.on_end(frame)
                if self.retired:
                    self.retire()
            case Heartbeat():
                self.heartbeat, self.last_heartbeat = frame, self._clock()
            case Capabilities():
                self.offers = OfferTable(frame)
            case Draining():
                self.draining = True
            case Hello():
                self._on_hello(frame)

    def _on_chunk(self, chunk: Chunk) -> None:
        job = self._jobs.get(chunk.job_id)
        if job is not None:
            job.on_data(chunk.data)
        else:  # abandoned: thrown away, so that its end is not stuck behind a full window
            self._session.consumed(chunk.job_id, len(chunk.data))

    def _on_hello(self, hello: Hello) -> None:
        self.public_key, self.instance_id = hello.public_key, hello.instance_id
        rejected = self._registry.admit(hello)
        if rejected is not None:
            self._session.reject(rejected)
            return
        lost = self._registry.claim(hello)
        if lost is None:
            self._session.accept(self._welcome())
        else:
            self._continue(lost, hello)
        self._registry.join(self)
        fields = {
            "agent": self.name,
            "version": hello.agent_version,
            "session": self.session_id.hex(),
            "resumed": self.resumed,
            "jobs": self.in_flight,
        }
        log.info("agent connected", **fields)

    def _continue(self, lost: DetachedSession, hello: Hello) -> None:
        """Welcome the agent back, and take its jobs over."""
        self.resumed = True
        self.session_id, self.retired = lost.session_id, lost.retired
        self.draining, self.offers = lost.draining, lost.offers  # until it tells anew
        continuation = lost.plan_resumption(hello.live_jobs)
        self._session.accept(self._welcome(), continuation.streams)
        for job_id in continuation.streams:
            self._jobs[job_id] = lost.jobs[job_id]
        for job in continuation.lost:
            remaining_ms = max(0, int((job.ends_at - self._clock()) * 1000))
            job.send_count += 1
            self._start(replace(job.job, deadline_ms=remaining_ms), job)
        for job in self._jobs.values():
            job.owner = self
        fail_missing(continuation.failed)

    def _welcome(self) -> Welcome:
        return Welcome(
            provider_id=self.name,
            session_id=self.session_id,
            heartbeat_ms=self._settings.heartbeat_ms,
            resume_ms=self._settings.resume_ms,
            window_bytes=self._settings.window_bytes,
            max_message_bytes=MAX_MESSAGE_TO_COORDINATOR_BYTES,
        )
