"""A session without a connection: its jobs, and how much of each response has arrived.

It owns the jobs until the agent's next connection resumes the session, or until the session
expires. Meanwhile clients can read the bytes that have already arrived, or disconnect.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from provider_agent.coordinator.reason import Reason
from provider_agent.coordinator.sessions.job_counts import JobCounts
from provider_agent.coordinator.sessions.offers import OfferTable
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import JobError, LiveJob
from provider_agent.protocol.receive_stream import ReceiveStream
from provider_agent.protocol.resumption import Resumption, plan_resumption

MAX_SENDS: Final = 10
"""How many times one job is sent to one agent. Several links in a row may be lost before the job's
header arrives. But a job that itself causes the loss of each link must not be sent again and again
until its deadline."""

_CONNECTION_LOST: Final = "The connection to the provider was lost."
_JOB_MISSING: Final = "The provider reconnected without this job."


class LostJob(JobError, frozen=True):
    """The end of a job whose session has ended or was resumed without it; never sent by an agent.

    Its code is a `Reason`: it is not certain that the agent or its server failed.

    Attributes:
        may_return: whether the agent may run the request when it returns: its link was lost, and
            its session cannot be resumed. Not if it broke the protocol, or has resumed its session
            without the job.
    """

    may_return: bool = False


class MovedJob(Struct, frozen=True):
    """A job that continues with another owner.

    Attributes:
        job: the job.
        stream: its response.
        sent_at: when it was sent, in seconds of the coordinator's clock.
    """

    job: RunningJob
    stream: ReceiveStream
    sent_at: float


class ResumptionPlan(Struct, frozen=True):
    """What happens to the jobs of a detached session when its agent resumes it.

    Attributes:
        resumption: the jobs that `Welcome` names.
        resend: jobs whose header was lost with a link.
        failed: jobs that the agent cannot continue, and jobs whose header was lost `MAX_SENDS`
            times.
    """

    resumption: Resumption
    resend: list[RunningJob]
    failed: list[RunningJob]


def new_session(public_key: bytes, session_id: bytes, instance_id: str) -> "DetachedSession":
    """Return a session without jobs."""
    return DetachedSession(
        public_key=public_key,
        session_id=session_id,
        instance_id=instance_id,
        retired=False,
        draining=False,
        offers=None,
        jobs={},
        streams={},
        counts=JobCounts(),
        ended=OrderedDict(),
    )


class DetachedSession:
    """Owns the jobs of a session between two connections.

    Args:
        public_key: the agent's identity.
        session_id: stays the same across connections.
        instance_id: the id of the agent's process.
        retired: whether another connection of the same key receives the new jobs.
        draining: whether the agent accepts no more jobs.
        offers: the agent's latest offers; None before the first `Capabilities`.
        jobs: the jobs that a client waits for.
        streams: the responses by job id; those of jobs that are not in `jobs` were cancelled.
        counts: how many jobs of each model have no end.
        ended: job id → `total_bytes` of the latest jobs whose end has arrived.

    Attributes:
        may_return: whether the agent may run the requests of its jobs again; see `LostJob`.
    """

    def __init__(
        self,
        *,
        public_key: bytes,
        session_id: bytes,
        instance_id: str,
        retired: bool,
        draining: bool,
        offers: OfferTable | None,
        jobs: dict[bytes, RunningJob],
        streams: dict[bytes, ReceiveStream],
        counts: JobCounts,
        ended: OrderedDict[bytes, int],
    ) -> None:
        self.public_key = public_key
        self.session_id = session_id
        self.instance_id = instance_id
        self.retired = retired
        self.draining = draining
        self.offers = offers
        self.jobs = jobs
        self.counts = counts
        self.ended = ended
        self.may_return = True
        self._streams = streams
        for job in jobs.values():
            job.owner = self

    def __repr__(self) -> str:
        retired = " retired" if self.retired else ""
        return f"<DetachedSession {self.session_id.hex()}{retired} jobs={len(self.jobs)}>"

    def add(self, moved: MovedJob) -> None:
        """Add a job whose response continues here from `stream.received` on."""
        job = moved.job
        job.owner = self
        self.jobs[job.job_id] = job
        self._streams[job.job_id] = moved.stream
        self.counts.add(job.job_id, job.job.model_id, moved.sent_at)

    def remove(self, job_id: bytes) -> MovedJob | None:
        """Remove and return a job that continues elsewhere; None if it is not here."""
        job, sent = self.jobs.pop(job_id, None), self.counts.remove(job_id)
        if job is None:
            return None
        sent_at = 0.0 if sent is None else sent.sent_at  # None: its end has arrived, and is held
        return MovedJob(job, self._streams.pop(job_id), sent_at)

    def consume(self, job: RunningJob, count: int) -> None:
        """Count bytes as passed on to the client; the next connection sends the `Ack`."""
        job.unconsumed -= count
        stream = self._streams.get(job.job_id)
        if stream is not None:
            stream.consume(count)

    def abandon(self, job: RunningJob) -> None:
        """Drop the job; it is cancelled when the agent resumes the session, unless it has ended."""
        if self.jobs.pop(job.job_id, None) is not None and job.end is not None:
            self.ended[job.job_id] = self._streams.pop(job.job_id).received

    def report_lost(self) -> None:
        """Report to the requests that the agent has not returned for some time."""
        for job in self.jobs.values():
            job.set_lost(True)

    def plan_resumption(self, live_jobs: Iterable[LiveJob]) -> ResumptionPlan:
        """Decide for each job whether it continues, is sent again or has failed.

        A job that has not started and is not in `live_jobs` is sent again: its header must have
        been lost, because an agent that received it lists the job until the job's end is
        acknowledged. If the header arrived after all, the second one has no effect: the agent runs
        each job id once.
        """
        listed = {live.job_id for live in live_jobs}
        cancelled = self._streams.keys() - self.jobs.keys()
        plan = ResumptionPlan(
            plan_resumption(live_jobs, self._streams, cancelled, self.ended), [], []
        )
        for job_id, job in self.jobs.items():
            if job_id in plan.resumption.streams:
                continue
            header_lost = job_id not in listed and job.started is None
            is_resent = header_lost and job.send_count < MAX_SENDS
            (plan.resend if is_resent else plan.failed).append(job)
        return plan

    def end(self, reason: Reason = Reason.PROVIDER_LOST) -> None:
        """End the session: every job fails with one error. Does nothing the second time.

        Args:
            reason: `PROVIDER_LOST` or `COORDINATOR_STOPPING`.
        """
        jobs, self.jobs, self._streams = self.jobs, {}, {}
        _fail(jobs.values(), reason, _CONNECTION_LOST, may_return=self.may_return)


def not_received(job_id: bytes) -> JobError:
    """Return the end of a job that did not reach its agent: a refusal, so it is sent again."""
    return JobError(
        job_id,
        0,
        ErrorCode.OUT_OF_CAPACITY.value,
        "The request was lost on its way to the provider.",
        retryable=True,
    )


def fail_missing(jobs: Iterable[RunningJob]) -> None:
    """Fail jobs that the agent no longer holds after a resumption, each with one error."""
    _fail(jobs, Reason.PROVIDER_LOST, _JOB_MISSING)


def _fail(
    jobs: Iterable[RunningJob], reason: Reason, message: str, *, may_return: bool = False
) -> None:
    for job in jobs:
        lost = LostJob(job.job_id, 0, reason.value, message, retryable=True, may_return=may_return)
        job.on_end(lost)
