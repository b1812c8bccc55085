"""The running jobs and their speed, computed when the status is requested.

Relaying a response costs nothing for it: each job counts its bytes anyway.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Final

from msgspec import Struct

from provider_agent.agent.jobs.execution import JobExecution
from provider_agent.agent.telemetry.job_status import RunningJobStatus

MAX_RUNNING: Final = 100
"""The most running jobs in the status, the oldest first."""

MIN_SPAN_S: Final = 0.5
"""The shortest time between two readings that give a speed. Requests at shorter intervals, such as
those of several pages, repeat the last one."""

MAX_SPAN_S: Final = 10.0
"""After a longer time without a request, the speed is the mean since the first byte."""


class _Reading(Struct, frozen=True, gc=False):
    at: float
    size: int
    speed: float | None


class RunningJobs:
    """Measures the speed of running jobs between two requests of the status.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._readings: dict[bytes, _Reading] = {}

    def snapshot(
        self,
        running: Iterable[JobExecution],
        bytes_per_token: Mapping[tuple[str, str, str], float],
    ) -> list[RunningJobStatus]:
        """Return the state of the oldest running jobs."""
        now = self._clock()
        readings: dict[bytes, _Reading] = {}
        jobs = []
        for job in islice(running, MAX_RUNNING):
            header, first_byte_s = job.header, job.first_byte_s
            size = job.channel.stream.written
            reading = self._read(now, size, job)
            readings[header.job_id] = reading
            ratio = bytes_per_token.get((job.backend_id, header.model_id, header.format))
            speed = reading.speed
            jobs.append(
                RunningJobStatus(
                    id=header.job_id.hex(),
                    model_id=header.model_id,
                    backend_id=job.backend_id,
                    format=header.format,
                    age_s=job.duration_s,
                    first_byte_ms=None if first_byte_s is None else first_byte_s * 1000,
                    bytes=size,
                    bytes_per_second=speed,
                    tokens_per_second=None if speed is None or not ratio else speed / ratio,
                )
            )
        self._readings = readings
        return jobs

    def _read(self, now: float, size: int, job: JobExecution) -> _Reading:
        last = self._readings.get(job.header.job_id)
        if last is not None and last.speed is not None:
            span = now - last.at
            if span < MIN_SPAN_S:
                return last
            # Bytes that a stop dropped no longer count.
            if span <= MAX_SPAN_S:
                return _Reading(now, size, max(size - last.size, 0) / span)
        if job.first_byte_s is None:
            return _Reading(now, size, None)
        since_s = job.duration_s - job.first_byte_s
        if since_s < MIN_SPAN_S:
            return _Reading(now, size, None)
        return _Reading(now, size, size / since_s)
