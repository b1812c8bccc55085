"""The times of one job, from which its trace is built; recorded only if traces are exported."""

import time
from collections.abc import Callable

from msgspec import Struct

from provider_agent.protocol.frames import JobHeader


class AttemptTimes(Struct):
    """One attempt of a job. Times are seconds since the job's arrival.

    Attributes:
        backend_id: the backend.
        kind: its kind.
        started_s: when it could start.
        first_byte_s: when the response started; None without one.
        ended_s: when it failed; None if it ended with the job.
        code: the code of its error; "" without one.
    """

    backend_id: str
    kind: str
    started_s: float
    first_byte_s: float | None = None
    ended_s: float | None = None
    code: str = ""


class JobTimeline:
    """The times of one job.

    Args:
        header: the header of the job, which arrives now.
        clock: monotonic seconds.

    Attributes:
        header: the header of the job.
        arrived_ns: when it arrived, in nanoseconds since 1970.
        request_s: seconds until its request was complete; None if it never was.
        ended_s: seconds until its end.
        attempts: its attempts, in order.
    """

    __slots__ = (
        "_arrived",
        "_clock",
        "arrived_ns",
        "attempts",
        "ended_s",
        "header",
        "request_s",
    )

    def __init__(self, header: JobHeader, clock: Callable[[], float]) -> None:
        self.header = header
        self.arrived_ns = time.time_ns()
        self.request_s: float | None = None
        self.ended_s = 0.0
        self.attempts: list[AttemptTimes] = []
        self._clock = clock
        self._arrived = clock()

    def __repr__(self) -> str:
        return f"<JobTimeline {self.header.job_id.hex()} attempts={len(self.attempts)}>"

    def request_arrived(self) -> None:
        """Record that the request is complete: the first attempt starts now."""
        self.request_s = self._now()
        if self.attempts:
            self.attempts[-1].started_s = self.request_s

    def attempt_started(self, backend_id: str, kind: str) -> None:
        """Record the start of the next attempt."""
        self.attempts.append(AttemptTimes(backend_id, kind, self._now()))

    def response_started(self) -> None:
        """Record that the response of the latest attempt has started."""
        self.attempts[-1].first_byte_s = self._now()

    def attempt_failed(self, code: str) -> None:
        """Record that the latest attempt failed; only its first failure counts."""
        latest = self.attempts[-1]
        if latest.ended_s is None:
            latest.ended_s, latest.code = self._now(), code

    def ended(self) -> None:
        """Record the end of the job."""
        self.ended_s = self._now()

    def _now(self) -> float:
        return self._clock() - self._arrived
