"""The jobs that this coordinator sent to agents of other coordinators. No I/O.

The edge alone acknowledges bytes of a response, when the client has accepted them. So the window of
a job holds from the client to the agent, and a client that does not read stops its own backend.

Messages may be lost. Each response has offsets: a gap makes the edge request the missing bytes, and
each renewal repeats what was acknowledged.
"""

import logging
from collections import Counter
from collections.abc import Callable, Container, Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from provider_agent.coordinator.agents.agent_jobs import CANCEL_REASON, MAX_UNSENT_REQUEST_BYTES
from provider_agent.coordinator.cluster import messages
from provider_agent.coordinator.cluster.messages import (
    AgentLost,
    EdgeFrame,
    Gone,
    HolderFrame,
    Offer,
    Renewal,
    RenewedJob,
)
from provider_agent.coordinator.cluster.outboxes import HolderOutbox
from provider_agent.coordinator.cluster.remote_agent import RemoteAgent
from provider_agent.coordinator.cluster.takeover_messages import TakenJob, TakeoverRequest, fitting
from provider_agent.coordinator.connections.limited_log import LimitedLog
from provider_agent.coordinator.reason import Reason
from provider_agent.coordinator.sessions.detached_session import LostJob, MovedJob, not_received
from provider_agent.coordinator.sessions.receipt_check import check_receipt
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.event_log import EventLogger
from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import (
    Ack,
    Cancel,
    Chunk,
    JobEnd,
    JobError,
    JobResult,
    JobStarted,
)
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import MAX_LIVE_JOBS
from provider_agent.protocol.receive_stream import ReceiveStream

log = EventLogger(__name__)

JobEnded = Callable[[bytes, str, JobEnd, float], None]
"""Called with public key, model, end and seconds; `AgentRegistry.job_ended`."""

_LOST: Final = "The connection to the provider was lost."

_REASONS: Final = frozenset({Reason.PROVIDER_LOST, Reason.COORDINATOR_STOPPING})
"""The reasons that a holder may give; any other one counts as `PROVIDER_LOST`."""


class _EdgeJob(Struct, eq=False):
    """One job and its response."""

    running: RunningJob
    holder: bytes
    process: int
    """The process of the agent; see `ids.process_of`."""
    stream: ReceiveStream
    sent_at: float
    renewed_at: int = -1
    """`stream.received` at the last renewal."""
    resend_requested: bool = False
    lost_at: float | None = None
    """When the holder was lost; None while it is not."""

    @property
    def job_id(self) -> bytes:
        return self.running.job_id


class EdgeJobs:
    """Owns the jobs; implements `JobOwner`.

    Args:
        window_bytes: how many bytes of each response may be unacknowledged.
        clock: monotonic, in seconds.
        wake: called with a holder when frames for it are queued.
        job_ended: records how a job ended.
    """

    def __init__(
        self,
        *,
        window_bytes: int,
        clock: Callable[[], float],
        wake: Callable[[bytes], None],
        job_ended: JobEnded,
    ) -> None:
        self._window_bytes = window_bytes
        self._clock = clock
        self._wake = wake
        self._log = LimitedLog(log, clock)
        self._job_ended = job_ended
        self._jobs: dict[bytes, _EdgeJob] = {}
        self._outboxes: dict[bytes, HolderOutbox] = {}

    def __repr__(self) -> str:
        return f"<EdgeJobs {len(self)} holders={len(self._outboxes)}>"

    def __len__(self) -> int:
        return len(self._jobs)

    def by_holder(self) -> Counter[bytes]:
        """Count the jobs of each holder."""
        return Counter(sent.holder for sent in self._jobs.values())

    def is_full(self, holder: bytes) -> bool:
        """Whether too many bytes of requests are queued for a holder."""
        outbox = self._outboxes.get(holder)
        return outbox is not None and outbox.requests.unsent_bytes > MAX_UNSENT_REQUEST_BYTES

    # --- called by the HTTP side ------------------------------------------------------------------

    def submit(self, agent: RemoteAgent, job: Job) -> RunningJob:
        """Queue a job for a remote agent."""
        now = self._clock()
        running = RunningJob(job, self, now + job.deadline_ms / 1000, agent.public_key)
        stream = ReceiveStream(self._window_bytes)
        running.expect_receipt(agent.receipts)
        self._jobs[job.job_id] = _EdgeJob(running, agent.holder, agent.process, stream, now)
        self._send(agent.holder, Offer(agent.public_key, job.header, self._window_bytes))
        self._outboxes[agent.holder].requests.add(job.job_id, job.request)
        return running

    def consume(self, job: RunningJob, count: int) -> None:
        """Count `count` more bytes as passed on to the client, which may queue an `Ack`."""
        job.unconsumed -= count
        sent = self._jobs.get(job.job_id)
        if sent is not None and (offset := sent.stream.consume(count)) is not None:
            self._send_to_holder(sent, Ack(job.job_id, offset))

    def abandon(self, job: RunningJob) -> None:
        """Drop the job, and cancel it if it still runs."""
        sent = self._remove(job.job_id)
        if sent is not None:
            self._send_to_holder(sent, Cancel(job.job_id, CANCEL_REASON))

    # --- called with received frames --------------------------------------------------------------

    def receive(self, holder: bytes, frame: HolderFrame) -> None:
        """Process a frame; ignore one that does not come from the holder of its job."""
        sent = self._jobs.get(frame.job_id)
        if sent is None:
            if isinstance(frame, JobResult | JobError):  # otherwise the holder would keep it
                self._send(holder, Ack(frame.job_id, frame.total_bytes, final=True))
        elif sent.holder == holder:
            try:
                self._on_frame(sent, frame)
            except ProtocolViolation as error:
                self._log.log(
                    logging.WARNING,
                    "coordinator broke the protocol",
                    coordinator=holder.hex(),
                    error=str(error),
                )
                self._send(holder, Cancel(frame.job_id, CANCEL_REASON))
                self._lose(sent, Reason.PROVIDER_LOST)

    def _on_frame(self, sent: _EdgeJob, frame: HolderFrame) -> None:
        stream = sent.stream
        match frame:
            case Chunk():
                if not stream.started or frame.offset > stream.received:
                    self._request_missing(sent)
                elif fresh := stream.receive(frame):
                    sent.resend_requested = False
                    sent.running.on_data(fresh)
            case JobStarted() if not stream.started:
                stream.started = True
                sent.running.on_started(frame)
            case JobResult() | JobError():
                if frame.total_bytes > stream.received:
                    self._request_missing(sent)
                else:
                    self._end(sent, frame)
            case Gone(reason=messages.UNKNOWN_JOB) if not stream.started:
                self._end(sent, not_received(frame.job_id))
            case Gone():
                known = frame.reason in _REASONS
                self._lose(sent, Reason(frame.reason) if known else Reason.PROVIDER_LOST)
            case AgentLost():
                sent.running.set_lost(frame.lost)

    def _request_missing(self, sent: _EdgeJob) -> None:
        """Request the missing bytes, once for all later frames that follow the same gap."""
        if not sent.resend_requested:
            sent.resend_requested = True
            self._send_to_holder(sent, Renewal([_renewed(sent, resend=True)]))

    def _end(self, sent: _EdgeJob, end: JobEnd) -> None:
        sent.stream.check_end(end)
        running = sent.running
        self._remove(running.job_id)
        self._send_to_holder(sent, Ack(running.job_id, end.total_bytes, final=True))
        if isinstance(end, JobResult) or end.receipt is not None:  # a holder's refusal has none
            end = check_receipt(running, end, running.public_key)
        duration_s = self._clock() - sent.sent_at
        self._job_ended(running.public_key, running.job.model_id, end, duration_s)
        running.on_end(end)

    def _lose(self, sent: _EdgeJob, reason: Reason) -> None:
        job_id = sent.running.job_id
        self._remove(job_id)
        sent.running.on_end(LostJob(job_id, 0, reason.value, _LOST, retryable=True))

    def _remove(self, job_id: bytes) -> _EdgeJob | None:
        sent = self._jobs.pop(job_id, None)
        if sent is not None:
            self._drop_request(sent)
        return sent

    def _drop_request(self, sent: _EdgeJob) -> None:
        outbox = self._outboxes.get(sent.holder)
        if outbox is not None:
            outbox.requests.drop(sent.job_id)

    # --- takeover ---------------------------------------------------------------------------------

    def add(self, moved: MovedJob, holder: bytes, process: int) -> None:
        """Own a job of a client here whose agent has reconnected to another coordinator."""
        running = moved.job
        running.owner = self
        self._jobs[running.job_id] = _EdgeJob(running, holder, process, moved.stream, moved.sent_at)

    def move(self, request: TakeoverRequest) -> list[TakenJob]:
        """Return the jobs that continue at the sender of `request`, and expect their frames there.

        The other jobs that the agent lists end, if they are jobs of this agent.
        """
        continued = self._continued(request)
        taken = fitting(self._taken(sent) for sent in continued)
        for sent in continued[: len(taken)]:
            self._move(sent, request.sender)
        for sent in continued[len(taken) :]:
            self._lose(sent, Reason.PROVIDER_LOST)
        return taken

    def remove(self, request: TakeoverRequest) -> list[MovedJob]:
        """Remove and return the jobs that continue here, because their agent is connected here."""
        returned = []
        for sent in self._continued(request):
            self._move(sent, request.sender)
            del self._jobs[sent.job_id]
            returned.append(MovedJob(sent.running, sent.stream, sent.sent_at))
        return returned

    def _continued(self, request: TakeoverRequest) -> list[_EdgeJob]:
        """Return the listed jobs of the agent that can continue; end those that cannot."""
        continued = []
        for live in {live.job_id: live for live in request.live_jobs}.values():
            sent = self._jobs.get(live.job_id)
            if sent is None or sent.running.public_key != request.public_key:
                continue
            has_request = live.request_offset >= len(sent.running.job.request)
            if has_request and live.first_offset <= sent.stream.received <= live.next_offset:
                continued.append(sent)
                continue
            self._send_to_holder(sent, Cancel(live.job_id, CANCEL_REASON))
            if sent.stream.received:
                self._lose(sent, Reason.PROVIDER_LOST)
            else:
                self._end(sent, not_received(live.job_id))
        return continued

    def _move(self, sent: _EdgeJob, holder: bytes) -> None:
        """Expect the frames of a job from another holder.

        The older holder is not sent a `Cancel`, which could arrive after the job has returned to
        it. It gives up the job when the new holder asks it, or when the lease expires.
        """
        sent.holder, sent.lost_at = holder, None
        sent.stream.resume(self._window_bytes)
        sent.renewed_at, sent.resend_requested = -1, False
        sent.running.set_lost(False)

    def _taken(self, sent: _EdgeJob) -> TakenJob:
        running, stream = sent.running, sent.stream
        remaining_ms = max(0, int((running.ends_at - self._clock()) * 1000))
        header = replace(running.job.header, deadline_ms=remaining_ms)
        return TakenJob(header, stream.received, stream.consumed, self._window_bytes)

    # --- called by the member ---------------------------------------------------------------------

    def renew(self, known: Container[bytes]) -> None:
        """Renew every job; request the response of a job again if nothing of it arrived lately.

        Args:
            known: the coordinators that can be reached; jobs of others are not renewed.
        """
        by_holder: dict[bytes, list[RenewedJob]] = {}
        for sent in self._jobs.values():
            if sent.holder not in known:
                continue
            if sent.lost_at is not None:  # after a partition
                sent.lost_at = None
                sent.running.set_lost(False)
            sent.stream.acknowledge()
            resend = sent.renewed_at == sent.stream.received
            sent.renewed_at = sent.stream.received
            sent.resend_requested = False
            by_holder.setdefault(sent.holder, []).append(_renewed(sent, resend=resend))
        for holder, jobs in by_holder.items():
            for first in range(0, len(jobs), MAX_LIVE_JOBS):
                self._send(holder, Renewal(jobs[first : first + MAX_LIVE_JOBS]))

    def lose_holder(self, holder: bytes) -> None:
        """Keep the jobs of a holder that has left or is silent, until its agents reconnect.

        Requests without output are sent to other agents meanwhile.
        """
        for sent in self._jobs.values():
            if sent.holder == holder and sent.lost_at is None:
                sent.lost_at = self._clock()
                sent.running.set_lost(True)
        self._outboxes.pop(holder, None)

    def agents_joined(self, joined: Mapping[bytes, int], holder: bytes | None) -> None:
        """End the jobs that agents cannot have any more, because they have connected again.

        Jobs of an older process end if their holder is lost. Of the same process, all that were not
        taken back end if it has connected here. If it has connected elsewhere, as a snapshot says
        that may be late, those end that have not started and may be lost.

        Args:
            joined: the agents: public key → which process has connected.
            holder: the coordinator to which they have connected; None for this one.
        """
        for sent in list(self._jobs.values()):
            running = sent.running
            process = joined.get(running.public_key)
            if process is None or sent.holder == holder:
                continue
            has_started = running.started is not None
            if sent.process != process:
                is_missing = sent.lost_at is not None
            else:
                is_missing = holder is None or (running.lost and not has_started)
            if is_missing and has_started:
                self._lose(sent, Reason.PROVIDER_LOST)
            elif is_missing:
                self._end(sent, not_received(sent.job_id))

    def end_all(self) -> None:
        """End all jobs, because this coordinator stops."""
        for sent in list(self._jobs.values()):
            self._send_to_holder(sent, Cancel(sent.job_id, CANCEL_REASON))
            self._lose(sent, Reason.COORDINATOR_STOPPING)

    def set_lost(self, holder: bytes, *, lost: bool) -> None:
        """Report to the requests that their holder may be lost, or that it has been heard again."""
        for sent in self._jobs.values():
            if sent.holder == holder and sent.lost_at is None:
                sent.running.set_lost(lost)

    def expire(self, keep_s: float) -> None:
        """End the jobs whose holder was lost `keep_s` seconds ago, each with one error."""
        lost_before = self._clock() - keep_s
        for sent in list(self._jobs.values()):
            if sent.lost_at is not None and sent.lost_at <= lost_before:
                self._lose(sent, Reason.PROVIDER_LOST)

    def next_frames(self, holder: bytes, limit_bytes: int) -> list[EdgeFrame]:
        """Remove and return the frames of the next message, of about `limit_bytes` together."""
        outbox = self._outboxes.get(holder)
        return [] if outbox is None else outbox.next_frames(limit_bytes)

    def _send_to_holder(self, sent: _EdgeJob, frame: EdgeFrame) -> None:
        if sent.lost_at is None:
            self._send(sent.holder, frame)

    def _send(self, holder: bytes, frame: EdgeFrame) -> None:
        outbox = self._outboxes.get(holder)
        if outbox is None:
            outbox = self._outboxes[holder] = HolderOutbox()
        outbox.frames.append(frame)
        self._wake(holder)


def _renewed(sent: _EdgeJob, *, resend: bool) -> RenewedJob:
    stream = sent.stream
    return RenewedJob(sent.running.job_id, stream.received, stream.acked, resend)
