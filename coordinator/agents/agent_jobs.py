"""The jobs on one agent's connection: sending them, their responses and their ends. No I/O."""

from collections.abc import Callable
from typing import Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from provider_agent.coordinator.agents.notices import slow_reading
from provider_agent.coordinator.sessions.detached_session import DetachedSession, fail_missing
from provider_agent.coordinator.sessions.job_counts import JobCounts, SentJob
from provider_agent.coordinator.sessions.running_job import JobOwner, RunningJob
from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
from provider_agent.protocol.errors import REGISTRY, ErrorCode
from provider_agent.protocol.frames import Chunk, JobEnd, JobError, JobStarted, LiveJob
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import MIB
from provider_agent.protocol.receipts import FEATURE
from provider_agent.protocol.receive_stream import ReceiveStream
from provider_agent.protocol.request import RequestQueue
from provider_agent.protocol.resumption import Resumption

JobT = TypeVar("JobT", bound=RunningJob)

CreateJob = Callable[[Job, JobOwner, float, bytes], JobT]
"""Creates a running job from the job, its owner, its deadline and the agent's public key."""

MAX_UNSENT_REQUEST_BYTES: Final = 64 * MIB
"""Routing skips an agent with more unsent request bytes than this: four of the largest requests."""

CANCEL_REASON: Final = "the response is no longer needed"
"""The reason sent with each `Cancel`, for the agent's log."""


class DetachedJobs(Struct, frozen=True):
    """The jobs of a connection that has ended.

    Attributes:
        jobs: those that a client waits for.
        streams: their responses by job id, and those of cancelled jobs.
        counts: the counts by model.
    """

    jobs: dict[bytes, RunningJob]
    streams: dict[bytes, ReceiveStream]
    counts: JobCounts


class AgentJobs:
    """Owns the jobs of one connection.

    Args:
        protocol: the protocol state of the connection.
        clock: monotonic, in seconds.
        wake: called when frames are queued.
        end_acknowledged: called when an end that was held has been acknowledged.
        max_unread_bytes: how many bytes of a response its client may leave unread, before the job
            is cancelled; None: the window of the protocol limits them.
    """

    def __init__(
        self,
        protocol: CoordinatorProtocol,
        clock: Callable[[], float],
        wake: Callable[[], None],
        end_acknowledged: Callable[[], None],
        *,
        max_unread_bytes: int | None = None,
    ) -> None:
        self._protocol = protocol
        self._clock = clock
        self._wake = wake
        self._end_acknowledged = end_acknowledged
        self._jobs: dict[bytes, RunningJob] = {}
        self._counts = JobCounts()
        self._slow_reading = False
        self._max_unread_bytes = max_unread_bytes

    def __repr__(self) -> str:
        return f"<AgentJobs {len(self)} {self._counts}>"

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def idle(self) -> bool:
        """Whether every end has been acknowledged."""
        return not self._protocol.streams

    def count(self, model_id: str) -> int:
        """Return how many jobs of a model have no end, including cancelled ones."""
        return self._counts.count(model_id)

    @property
    def send_queue_full(self) -> bool:
        """Whether the unsent requests exceed `MAX_UNSENT_REQUEST_BYTES`."""
        return self._protocol.requests.unsent_bytes > MAX_UNSENT_REQUEST_BYTES

    def start(self, job: Job, public_key: bytes, create: CreateJob[JobT]) -> JobT:
        """Queue a job for the agent with this key; `create` creates the object that receives it."""
        running = create(job, self, self._clock() + job.deadline_ms / 1000, public_key)
        self._start(job, running)
        return running

    def _start(self, job: Job, running: RunningJob) -> None:
        running.expect_receipt(FEATURE in self._protocol.features)
        self._protocol.start_job(job, holds_end=running.holds_end)
        self._jobs[job.job_id] = running
        self._counts.add(job.job_id, job.model_id, self._clock())
        if not self.send_queue_full:
            self._slow_reading = False
        elif not self._slow_reading:
            self._slow_reading = True
            self._protocol.to_send.append(slow_reading(MAX_UNSENT_REQUEST_BYTES))
        self._wake()

    def consume(self, job: RunningJob, count: int) -> None:
        """Count `count` more bytes as passed on to the client, which may queue an `Ack`."""
        job.unconsumed -= count
        self._protocol.consumed(job.job_id, count)
        if self._protocol.to_send:
            self._wake()

    def abandon(self, job: RunningJob) -> None:
        """Drop the job; cancel it if it still runs, or acknowledge its end if that was held."""
        if self._jobs.pop(job.job_id, None) is None:
            return
        if job.end is not None:
            self._protocol.acknowledge_end(job.job_id)
            self._end_acknowledged()
        else:
            self._protocol.streams[job.job_id].holds_end = False
            self._protocol.cancel_job(job.job_id, CANCEL_REASON)
            self._protocol.consumed(job.job_id, job.unconsumed)
        self._wake()

    def cancel_all(self) -> None:
        """Cancel every job, because the session ends: the agent would run them until it knows."""
        for job_id in self._jobs:
            self._protocol.cancel_job(job_id, CANCEL_REASON)

    def set_lost(self, lost: bool) -> None:
        """Report to the requests that the agent may be lost, or that it responds again."""
        for job in self._jobs.values():
            job.set_lost(lost)

    def on_started(self, frame: JobStarted) -> None:
        """Pass on the start of a response."""
        if frame.job_id in self._jobs:
            self._jobs[frame.job_id].on_started(frame)

    def on_chunk(self, chunk: Chunk) -> None:
        """Pass on new bytes of a response."""
        job = self._jobs.get(chunk.job_id)
        if job is not None:
            job.on_data(chunk.data)
            limit = self._max_unread_bytes
            if limit is not None and job.unconsumed > limit:
                self._end_unread(job)
        else:  # abandoned: acknowledge the discarded bytes, or a full window would delay the end
            self._protocol.consumed(chunk.job_id, len(chunk.data))

    def _end_unread(self, job: RunningJob) -> None:
        """Cancel a job whose client does not read; its client sees `slow_consumer`."""
        code = ErrorCode.SLOW_CONSUMER
        total_bytes = self._protocol.streams[job.job_id].received
        self.abandon(job)
        job.on_end(JobError(job.job_id, total_bytes, code.value, REGISTRY[code].meaning))

    def end(self, frame: JobEnd) -> tuple[RunningJob | None, SentJob | None]:
        """Remove a job that has ended, unless its end is held.

        Returns:
            The job, or None if no request waits for it; and what is known about it, or None if its
                end had arrived before.
        """
        job = self._jobs.get(frame.job_id)
        if job is not None and not job.holds_end:
            del self._jobs[frame.job_id]
        return job, self._counts.remove(frame.job_id)

    def detach(self) -> DetachedJobs:
        """Move the jobs out of this connection."""
        jobs, self._jobs = self._jobs, {}
        streams, self._protocol.streams = self._protocol.streams, {}
        counts, self._counts = self._counts, JobCounts()
        self._protocol.requests = RequestQueue()
        return DetachedJobs(jobs, streams, counts)

    def resume(
        self,
        detached: DetachedSession,
        live_jobs: list[LiveJob],
        accept: Callable[[Resumption], None],
    ) -> None:
        """Take over the jobs of a session.

        Args:
            detached: the session.
            live_jobs: the jobs in the agent's `Hello`.
            accept: sends `Welcome`.
        """
        plan = detached.plan_resumption(live_jobs)
        resumption = plan.resumption
        accept(resumption)
        self._protocol.ended = detached.ended
        self._counts = detached.counts
        self._counts.retain(self._protocol.streams)
        for job_id, offset in resumption.request_offsets.items():
            if job_id in resumption.cancelled:
                self._protocol.cancel_job(job_id, CANCEL_REASON)
            else:
                job = self._jobs[job_id] = detached.jobs[job_id]
                self._protocol.continue_request(job.job, offset)
        for job in plan.resend:
            remaining_ms = max(0, int((job.ends_at - self._clock()) * 1000))
            job.send_count += 1
            self._start(replace(job.job, deadline_ms=remaining_ms), job)
        for job in self._jobs.values():
            job.owner = self
            job.set_lost(False)
        fail_missing(plan.failed)
