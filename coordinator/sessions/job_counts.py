"""Counts the jobs without an end on one connection, by model. No I/O."""

from collections import Counter
from collections.abc import Collection

from msgspec import Struct


class SentJob(Struct, frozen=True):
    """A job that was sent to an agent.

    Attributes:
        model_id: the model that runs it.
        sent_at: when it was sent, in seconds of the coordinator's clock.
    """

    model_id: str
    sent_at: float


class JobCounts:
    """The jobs of one agent that have no end, including cancelled ones.

    It is the coordinator's own count, so that an agent cannot raise its share by a claim.
    """

    def __init__(self) -> None:
        self._jobs: dict[bytes, SentJob] = {}
        self._by_model: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<JobCounts {dict(self._by_model)}>"

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job_id: bytes, model_id: str, now: float) -> None:
        """Count a job. A job that is sent again counts once, from its first time on."""
        if job_id not in self._jobs:
            self._jobs[job_id] = SentJob(model_id, now)
            self._by_model[model_id] += 1

    def remove(self, job_id: bytes) -> SentJob | None:
        """Stop counting a job; return what is known about it, or None if it is not counted."""
        job = self._jobs.pop(job_id, None)
        if job is not None:
            self._by_model[job.model_id] -= 1
            if not self._by_model[job.model_id]:
                del self._by_model[job.model_id]
        return job

    def retain(self, job_ids: Collection[bytes]) -> None:
        """Stop counting all jobs but these."""
        for job_id in self._jobs.keys() - job_ids:
            self.remove(job_id)

    def count(self, model_id: str) -> int:
        """Return how many jobs of a model have no end."""
        return self._by_model[model_id]
