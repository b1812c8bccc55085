"""What the coordinator knows of one connected agent, and the jobs it runs. No I/O.

Frames come in by `take_message`, a plain call that never waits; what is to be sent collects in
`waiting` and `wake` tells the writer. The HTTP side submits jobs, says what it has passed on, and
abandons jobs whose buyer is gone.
"""

import base64
import logging
from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct

from coordinator.batching import frame_bytes, take_batch
from coordinator.offers import OfferTable
from coordinator.running_job import RunningJob
from coordinator.settings import CoordinatorSettings
from protocol.codec import VERSION_1
from protocol.errors import ErrorCode
from protocol.frames import (
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
from protocol.limits import BATCH_BYTES, MAX_MESSAGE_TO_COORDINATOR_BYTES, MIB
from protocol.session import CoordinatorSession, State

log = logging.getLogger("provider_agent.coordinator")

MAX_WAITING_BYTES: Final = 64 * MIB
"""Jobs that wait to be sent to one agent: four of the biggest. More go elsewhere."""


class Goodbye(Struct, frozen=True):
    """Why a connection ends.

    Attributes:
        close_code: RFC 6455, 7.4.
        reason: for the close frame and the log, without content.
        flush: whether what waits is still sent: a rejection is, jobs are not.
    """

    close_code: int
    reason: str
    flush: bool = False


class Roster(Protocol):
    """Where an agent asks to be admitted, and signs off."""

    def admit(self, agent: "ConnectedAgent", hello: Hello) -> Rejected | None:
        """Why this agent may not join; None: it may."""
        ...

    def join(self, agent: "ConnectedAgent") -> None:
        """The agent is welcome; it gets jobs as soon as it has told its models."""
        ...

    def leave(self, agent: "ConnectedAgent") -> None:
        """The agent is gone; may be called again, and for one that never joined."""
        ...


class ConnectedAgent:
    """One agent, from its open socket to the end of the connection.

    Args:
        session: fresh, with a fresh nonce.
        session_id: 16 bytes for `Welcome`.
        roster: who admits it.
        settings: the coordinator's.
        clock: seconds, monotonic.
        wake: called when something waits to be sent.
        close: called to end the connection from this side.

    Attributes:
        public_key: its identity; empty before its signature is verified.
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
        roster: Roster,
        settings: CoordinatorSettings,
        clock: Callable[[], float],
        wake: Callable[[], None],
        close: Callable[[Goodbye], None],
    ) -> None:
        self.public_key = b""
        self.offers: OfferTable | None = None
        self.heartbeat: Heartbeat | None = None
        self.last_heartbeat: float | None = None
        self.draining = False
        self.unknown_frames = 0
        self.close = close
        self._session = session
        self._session_id = session_id
        self._roster = roster
        self._settings = settings
        self._clock = clock
        self._wake = wake
        self._jobs: dict[bytes, RunningJob] = {}
        self._waiting_bytes = 0

    def __repr__(self) -> str:
        who = self.name or "nobody yet"
        return f"<ConnectedAgent {who} {self.state} jobs={self.in_flight} offers={self.offers}>"

    @property
    def name(self) -> str:
        """Its public key in base64; "" before it is verified."""
        return base64.b64encode(self.public_key).decode()

    @property
    def state(self) -> State:
        """Where the connection stands."""
        return self._session.state

    @property
    def waiting(self) -> int:
        """Frames that wait to be sent."""
        return len(self._session.to_send)

    @property
    def in_flight(self) -> int:
        """Jobs given to it whose end has not come, cancelled ones included."""
        return len(self._session.streams)

    @property
    def clogged(self) -> bool:
        """Whether too much waits to be sent already."""
        return self._waiting_bytes > MAX_WAITING_BYTES

    # --- for the HTTP side ------------------------------------------------------------------------

    def submit(self, job: Job) -> RunningJob:
        """Give it a job, in the same turn of the loop in which it was chosen."""
        running = RunningJob(job.job_id)
        self._session.start_job(job)
        self._jobs[job.job_id] = running
        self._waiting_bytes += frame_bytes(job)
        self._wake()
        return running

    def passed_on(self, job: RunningJob, count: int) -> None:
        """`count` bytes of the job are with the buyer; as many more may come."""
        job.unpassed -= count
        self._session.consumed(job.job_id, count)
        self._wake_when_waiting()

    def abandon(self, job: RunningJob, reason: str) -> None:
        """Nobody waits for the job any more; it is cancelled when it still runs."""
        if self._jobs.pop(job.job_id, None) is not None:
            self._session.cancel_job(job.job_id, reason)
            self._session.consumed(job.job_id, job.unpassed)
            self._wake()

    # --- for the fleet ----------------------------------------------------------------------------

    def ask_to_drain(self, reason: str) -> None:
        """Tell it that the coordinator is going away."""
        if self.state is State.OPEN:
            self._session.to_send.append(Drain(reason))
            self._wake()

    # --- for the connection -----------------------------------------------------------------------

    def take_message(self, message: bytes | str) -> None:
        """What came over the wire.

        Raises:
            ProtocolError: it is malformed or not allowed now; the connection is to be closed.
        """
        decoded = VERSION_1.decode_from_agent(message, MAX_MESSAGE_TO_COORDINATOR_BYTES)
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
        batch = take_batch(self._session.to_send, BATCH_BYTES)
        self._waiting_bytes -= sum(frame_bytes(job) for job in batch if isinstance(job, Job))
        return batch

    def lose(self) -> None:
        """The connection is over: leave the fleet, end what still runs. May be called again."""
        self._roster.leave(self)
        jobs, self._jobs = self._jobs, {}
        for job_id, job in jobs.items():
            job.on_end(
                JobError(
                    job_id,
                    total_bytes=0,
                    code=ErrorCode.BACKEND_UNREACHABLE.value,
                    message="The connection to the provider was lost.",
                    retryable=True,
                )
            )

    def _wake_when_waiting(self) -> None:
        if self._session.to_send:
            self._wake()

    def _log_rejection(self) -> None:
        for frame in self._session.to_send:
            if isinstance(frame, Rejected):
                fields = {"agent": self.name, "code": frame.code}
                log.warning("agent rejected", extra={"fields": fields})

    def _count_unknown(self, types: list[int]) -> None:
        if not self.unknown_frames:
            fields = {"agent": self.name, "frame_type": types[0]}
            log.warning("unknown frame type skipped", extra={"fields": fields})
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
        self.public_key = hello.public_key
        rejected = self._roster.admit(self, hello)
        if rejected is not None:
            self._session.reject(rejected)
            return
        self._session.accept(
            Welcome(
                provider_id=self.name,
                session_id=self._session_id,
                heartbeat_ms=self._settings.heartbeat_ms,
                resume_ms=0,  # lost streams are not kept yet
                window_bytes=self._settings.window_bytes,
                max_message_bytes=MAX_MESSAGE_TO_COORDINATOR_BYTES,
            )
        )
        self._roster.join(self)
        fields = {"agent": self.name, "version": hello.agent_version}
        log.info("agent connected", extra={"fields": fields})
