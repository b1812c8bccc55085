"""The jobs that other coordinators sent to the agents of this one. No I/O.

The holder decides whether an agent has room, and refuses a job at once with the protocol's error
code. It passes the response on, and gives the agent the acknowledgements of the edge, so that it
holds at most a window of each response. These bytes remain here until the edge acknowledges them:
if a message is lost, they are sent again.
"""

import functools
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from msgspec import Struct

from provider_agent.coordinator.agents.agent_jobs import CreateJob
from provider_agent.coordinator.cluster.messages import (
    UNKNOWN_JOB,
    AgentLost,
    EdgeFrame,
    Gone,
    HolderFrame,
    Offer,
    Renewal,
    RenewedJob,
)
from provider_agent.coordinator.cluster.outboxes import EdgeOutbox
from provider_agent.coordinator.cluster.relayed_job import RelayedJob
from provider_agent.coordinator.cluster.takeover_messages import TakenJob
from provider_agent.coordinator.connections.limited_log import LimitedLog
from provider_agent.coordinator.reason import Reason
from provider_agent.coordinator.sessions.detached_session import (
    MAX_SENDS,
    DetachedSession,
    MovedJob,
)
from provider_agent.event_log import EventLogger
from provider_agent.protocol.errors import REGISTRY, ErrorCode
from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.formats import Operation, find_operation
from provider_agent.protocol.frames import Ack, Cancel, JobError, RequestChunk
from provider_agent.protocol.job import Job, join_request
from provider_agent.protocol.limits import MIB
from provider_agent.protocol.receive_stream import ReceiveStream
from provider_agent.protocol.request import RequestBuffer

log = EventLogger(__name__)


class HeldAgent(Protocol):
    """An agent that is connected here."""

    def has_job(self, job_id: bytes) -> bool:
        """Whether a job with this id has no end, even if it was cancelled."""
        ...

    def start(self, job: Job, create: CreateJob[RelayedJob]) -> RelayedJob:
        """Queue a job; `create` creates the object that receives the response."""
        ...


AcceptJob = Callable[[bytes, str, Operation], HeldAgent | ErrorCode]
"""Returns the agent with a public key if it has room for a job of the model and operation."""

MAX_INCOMPLETE_BYTES: Final = 64 * MIB
"""The most bytes of requests that are still arriving, of all edges together; a job beyond it is
refused. Four of the largest requests."""

MAX_JOBS: Final = 16_384
"""The most jobs, those included whose end the edge has not acknowledged; more are refused."""


class _Incoming(Struct, eq=False):
    """A job whose request is not complete."""

    edge: bytes
    offer: Offer
    request: RequestBuffer
    renewed_at: float

    @property
    def job_id(self) -> bytes:
        return self.offer.header.job_id


class HolderJobs:
    """Runs jobs of other coordinators.

    Args:
        accept: chooses the agent, or says why it cannot run a job.
        lease_s: a job that its edge does not renew for this time is cancelled.
        clock: monotonic, in seconds.
        wake: called with an edge when frames for it are queued.
    """

    def __init__(
        self,
        *,
        accept: AcceptJob,
        lease_s: float,
        clock: Callable[[], float],
        wake: Callable[[bytes], None],
    ) -> None:
        self._accept = accept
        self._lease_s = lease_s
        self._clock = clock
        self._wake = wake
        self._log = LimitedLog(log, clock)
        self._jobs: dict[bytes, RelayedJob] = {}
        self._incoming: dict[bytes, _Incoming] = {}
        self._outboxes: dict[bytes, EdgeOutbox] = {}
        self._moving: dict[bytes, float] = {}
        """When a job began to move to this coordinator, or away from it, by job id. Its edge may
        still renew it here, or already."""

    def __repr__(self) -> str:
        return f"<HolderJobs {len(self)} edges={len(self._outboxes)}>"

    def __len__(self) -> int:
        return len(self._jobs) + len(self._incoming)

    def by_edge(self) -> Counter[bytes]:
        """Count the jobs of each edge."""
        return Counter(job.edge for job in self._held())

    def receive(self, edge: bytes, frame: EdgeFrame) -> None:
        """Process a frame; ignore one that does not come from the edge of its job."""
        match frame:
            case Offer():
                self._on_offer(edge, frame)
            case RequestChunk():
                self._on_request(edge, frame)
            case Renewal():
                for renewed in frame.jobs:
                    self._on_renewal(edge, renewed)
            case Ack():
                if (job := self._job(edge, frame.job_id)) is not None:
                    self._acknowledge(job, frame.offset, final=frame.final)
            case Cancel():
                self._drop(edge, frame.job_id)

    def _job(self, edge: bytes, job_id: bytes) -> RelayedJob | None:
        job = self._jobs.get(job_id)
        return job if job is not None and job.edge == edge else None

    def _on_offer(self, edge: bytes, offer: Offer) -> None:
        job_id = offer.header.job_id
        if job_id in self._jobs or job_id in self._incoming:
            return  # each job runs once
        refusal = self._refusal(offer)
        if refusal is not None:
            self._refuse(edge, job_id, refusal)
            return
        size = offer.header.request_bytes
        self._incoming[job_id] = _Incoming(edge, offer, RequestBuffer(size), self._clock())
        self._start_if_complete(job_id)

    def _refusal(self, offer: Offer) -> ErrorCode | None:
        incomplete = sum(incoming.request.size for incoming in self._incoming.values())
        too_large = incomplete + offer.header.request_bytes > MAX_INCOMPLETE_BYTES
        if too_large or len(self) >= MAX_JOBS:
            return ErrorCode.OUT_OF_CAPACITY
        agent = self._agent_for(offer)
        return agent if isinstance(agent, ErrorCode) else None

    def _agent_for(self, offer: Offer) -> HeldAgent | ErrorCode:
        header = offer.header
        operation = find_operation(header.format, header.operation)
        if operation is None:
            return ErrorCode.FORMAT_NOT_SUPPORTED
        return self._accept(offer.public_key, header.model_id, operation)

    def _refuse(self, edge: bytes, job_id: bytes, code: ErrorCode) -> None:
        entry = REGISTRY[code]
        self._send(edge, JobError(job_id, 0, code.value, entry.meaning, retryable=entry.retryable))

    def _on_request(self, edge: bytes, chunk: RequestChunk) -> None:
        incoming = self._incoming.get(chunk.job_id)
        if incoming is None or incoming.edge != edge:
            return
        try:
            incoming.request.receive(chunk)
        except ProtocolViolation:  # a message with an earlier piece was lost
            del self._incoming[chunk.job_id]
            self._send(edge, Gone(chunk.job_id, UNKNOWN_JOB))
        else:
            self._start_if_complete(chunk.job_id)

    def _start_if_complete(self, job_id: bytes) -> None:
        incoming = self._incoming[job_id]
        if not incoming.request.complete:
            return
        del self._incoming[job_id]
        edge, offer = incoming.edge, incoming.offer
        agent = self._agent_for(offer)
        if isinstance(agent, ErrorCode):
            self._refuse(edge, job_id, agent)
            return
        if agent.has_job(job_id):  # the edge has used the id of a cancelled job again
            self._send(edge, Gone(job_id, Reason.PROVIDER_LOST.value))
            return
        create = functools.partial(
            RelayedJob,
            edge=edge,
            window_bytes=offer.window_bytes,
            renewed_at=self._clock(),
            relay=self,
        )
        self._jobs[job_id] = agent.start(
            join_request(offer.header, incoming.request.take()), create
        )

    def take_over(self, edge: bytes, taken: TakenJob, session: DetachedSession) -> None:
        """Continue a job of `edge` in the session that its agent resumes here."""
        header, received = taken.header, taken.received
        job_id = header.job_id
        is_held = job_id in self._jobs or job_id in self._incoming
        if is_held or taken.consumed > received or len(self) >= MAX_JOBS:
            return
        now = self._clock()
        job = RelayedJob(
            join_request(header, b""),
            session,
            now + header.deadline_ms / 1000,
            session.public_key,
            edge=edge,
            window_bytes=taken.window_bytes,
            renewed_at=now,
            relay=self,
        )
        job.send_count = MAX_SENDS  # only its edge has the request
        job.unconsumed = received - taken.consumed
        job.stream.continue_from(acked=taken.consumed, sent=received)
        stream = ReceiveStream(taken.window_bytes)
        stream.holds_end = True
        stream.continue_from(consumed=taken.consumed, received=received)
        self._jobs[job_id] = job
        session.add(MovedJob(job, stream, now))

    def expect(self, job_ids: Iterable[bytes]) -> None:
        """Do not report jobs as unknown for the time of a lease, because they are moving.

        Older reports that were not sent yet are dropped: the edge would apply them to a job that
        has returned here.
        """
        moving = set(job_ids)
        for outbox in self._outboxes.values():
            outbox.frames = deque(frame for frame in outbox.frames if frame.job_id not in moving)
        for job_id in moving:
            self._moving.pop(job_id, None)
            self._moving[job_id] = self._clock()
            if len(self._moving) > MAX_JOBS:
                del self._moving[next(iter(self._moving))]

    def release(self, job: RelayedJob) -> None:
        """Forget a job without a message to its edge: another coordinator continues it."""
        if self._jobs.get(job.job_id) is job:
            self._forget(job)
            self.expect([job.job_id])

    def release_all(self) -> None:
        """Forget all jobs, because this coordinator stops and their agents move to others."""
        for job in list(self._jobs.values()):
            self.release(job)
        self._incoming.clear()

    def output_changed(self, job: RelayedJob) -> None:
        """Send what the response has to send."""
        if self._jobs.get(job.job_id) is job and job.stream.ready:
            self._outbox(job.edge).ready[job.job_id] = job
            self._wake(job.edge)

    def agent_changed(self, job: RelayedJob) -> None:
        """Report whether the agent of a job may be lost."""
        if self._jobs.get(job.job_id) is job:
            self._send(job.edge, AgentLost(job.job_id, job.lost))

    def job_lost(self, job: RelayedJob, reason: str) -> None:
        """Report that a job will have no end, and forget it."""
        if self._jobs.get(job.job_id) is job:
            self._forget(job)
            self._send(job.edge, Gone(job.job_id, reason))

    def _on_renewal(self, edge: bytes, renewed: RenewedJob) -> None:
        job_id = renewed.job_id
        incoming = self._incoming.get(job_id)
        if incoming is not None and incoming.edge == edge:
            incoming.renewed_at = self._clock()
            return
        job = self._job(edge, job_id)
        if job is None:
            if job_id not in self._moving:
                self._send(edge, Gone(job_id, UNKNOWN_JOB))
            return
        if renewed.received < job.stream.first_held:
            return  # sent before the job moved here
        job.renewed_at = self._clock()
        if self._acknowledge(job, renewed.acked, final=False) and renewed.resend:
            try:
                job.stream.rewind(renewed.received)
            except ProtocolViolation:
                self._on_violation(job)
            else:
                self.output_changed(job)

    def _acknowledge(self, job: RelayedJob, offset: int, *, final: bool) -> bool:
        """Pass an acknowledgement on to the agent; return False if it is not valid."""
        try:
            released = job.acknowledge(offset, final=final)
        except ProtocolViolation:
            self._on_violation(job)
            return False
        job.owner.consume(job, released)
        if job.stream.done:
            self._forget(job)
            job.owner.abandon(job)  # the agent may forget it now
        else:
            self.output_changed(job)
        return True

    def _on_violation(self, job: RelayedJob) -> None:
        self._log.log(logging.WARNING, "coordinator broke the protocol", coordinator=job.edge.hex())
        self._drop(job.edge, job.job_id)
        self._send(job.edge, Gone(job.job_id, Reason.PROVIDER_LOST.value))

    def _drop(self, edge: bytes, job_id: bytes) -> None:
        """Forget a job, and cancel it at the agent if it still runs."""
        incoming = self._incoming.get(job_id)
        if incoming is not None and incoming.edge == edge:
            del self._incoming[job_id]
        job = self._job(edge, job_id)
        if job is not None:
            self._forget(job)
            job.owner.abandon(job)

    def _forget(self, job: RelayedJob) -> None:
        del self._jobs[job.job_id]
        self._outbox(job.edge).ready.pop(job.job_id, None)
        self._wake(job.edge)  # a stop waits until the last job is gone

    def expire(self) -> None:
        """Cancel the jobs that their edge has not renewed in time."""
        expired_before = self._clock() - self._lease_s
        for job in self._held():
            if job.renewed_at < expired_before:
                self._log.log(
                    logging.WARNING,
                    "job of another coordinator expired",
                    coordinator=job.edge.hex(),
                    job=job.job_id.hex(),
                )
                self._drop(job.edge, job.job_id)
        for job_id, since in list(self._moving.items()):
            if since < expired_before:
                del self._moving[job_id]

    def restart_leases(self) -> None:
        """Count the leases of all jobs from now on: the connection was interrupted."""
        for job in self._held():
            job.renewed_at = self._clock()

    def _held(self) -> list["RelayedJob | _Incoming"]:
        return [*self._jobs.values(), *self._incoming.values()]

    def drop_edge(self, edge: bytes) -> None:
        """Cancel the jobs of an edge that has left or is silent."""
        for job_id in [*self._jobs, *self._incoming]:
            self._drop(edge, job_id)
        self._outboxes.pop(edge, None)

    def next_frames(self, edge: bytes, limit_bytes: int) -> list[HolderFrame]:
        """Remove and return the frames of the next message, of about `limit_bytes` together."""
        outbox = self._outboxes.get(edge)
        return [] if outbox is None else outbox.next_frames(limit_bytes)

    def _outbox(self, edge: bytes) -> EdgeOutbox:
        outbox = self._outboxes.get(edge)
        if outbox is None:
            outbox = self._outboxes[edge] = EdgeOutbox()
        return outbox

    def _send(self, edge: bytes, frame: HolderFrame) -> None:
        self._outbox(edge).frames.append(frame)
        self._wake(edge)
