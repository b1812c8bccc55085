"""What is left of a session whose link is gone: its jobs, and how far each response came.

Between two connections it owns the jobs, so that clients go on taking what has arrived already, and
may leave. The next connection of the same agent takes it over, or it ends.
"""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from provider_agent.coordinator.sessions.offers import OfferTable
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import JobError, LiveJob
from provider_agent.protocol.session import resumable
from provider_agent.protocol.stream import ReceiveStream

MAX_SENDS: Final = 10
"""How often one job is sent to one agent. Its frame may be lost with a link, and in a bad minute
many links are lost before the agent has even read its `Welcome`; but a job that breaks every link
it travels on must not do so until its deadline."""

_LOST: Final = "The connection to the provider was lost."
_FORGOTTEN: Final = "The provider came back without this job."


class ResumptionPlan(Struct, frozen=True):
    """What becomes of the jobs of a lost session on its next connection.

    Attributes:
        streams: go on where they stand.
        lost: their `Job` frame never arrived; to be sent again.
        failed: the agent no longer has what comes next.
    """

    streams: dict[bytes, ReceiveStream]
    lost: list[RunningJob]
    failed: list[RunningJob]


class DetachedSession:
    """The jobs of one session between two connections.

    Args:
        public_key: of its agent.
        session_id: its name, which it keeps however often its link breaks.
        instance_id: of the agent's process.
        retired: another connection of the same key gets the new jobs.
        draining: the agent takes no more jobs.
        offers: what it served.
        jobs: those that somebody waits for.
        streams: how far the response of each came; may hold more than `jobs`.
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
    ) -> None:
        self.public_key = public_key
        self.session_id = session_id
        self.instance_id = instance_id
        self.retired = retired
        self.draining = draining
        self.offers = offers
        self.jobs = jobs
        self._streams = {job_id: streams[job_id] for job_id in jobs if job_id in streams}
        for job in jobs.values():
            job.owner = self

    def __repr__(self) -> str:
        retired = " retired" if self.retired else ""
        return f"<DetachedSession {self.session_id.hex()}{retired} jobs={len(self.jobs)}>"

    def acknowledge(self, job: RunningJob, count: int) -> None:
        """`count` bytes of the job are with the client; the next connection acknowledges them."""
        job.unacknowledged -= count
        stream = self._streams.get(job.job_id)
        if stream is not None:
            stream.consume(count)

    def abandon(self, job: RunningJob) -> None:
        """Nobody waits for the job any more: it will not be named, so its agent cancels it."""
        self.jobs.pop(job.job_id, None)
        self._streams.pop(job.job_id, None)

    def plan_resumption(self, live_jobs: Iterable[LiveJob]) -> ResumptionPlan:
        """Sort the jobs by what the agent still holds of them.

        A job that neither has started nor is offered did not reach the agent: it would have kept
        the end otherwise. If it did nevertheless, the agent runs it once all the same.
        """
        offered = {live.job_id for live in live_jobs}
        continuation = ResumptionPlan(resumable(live_jobs, self._streams), [], [])
        for job_id, job in self.jobs.items():
            if job_id in continuation.streams:
                continue
            never_came = job_id not in offered and job.started is None
            again = never_came and job.send_count < MAX_SENDS
            (continuation.lost if again else continuation.failed).append(job)
        return continuation

    def end(self) -> None:
        """The agent did not come back: every job ends with one error."""
        jobs, self.jobs, self._streams = self.jobs, {}, {}
        _fail(jobs.values(), _LOST)


def fail_missing(jobs: Iterable[RunningJob]) -> None:
    """End jobs that their agent came back without, each with one error."""
    _fail(jobs, _FORGOTTEN)


def _fail(jobs: Iterable[RunningJob], message: str) -> None:
    for job in jobs:
        job.on_end(
            JobError(
                job.job_id,
                total_bytes=0,
                code=ErrorCode.BACKEND_UNREACHABLE.value,
                message=message,
                retryable=True,
            )
        )
