"""Job statistics of the last 60 seconds, for heartbeats and `status`."""

from collections import deque
from collections.abc import Callable
from math import ceil
from typing import Final

from msgspec import Struct

from provider_agent.protocol.errors import ErrorCode, Fault, entry_for

WINDOW_S: Final = 60.0
"""The period that the protocol's `Heartbeat` covers."""

MAX_ENDED_JOBS: Final = 10_000
"""Most jobs kept: 160 per second, far more than servers complete, in about 2 MB."""

_MIN_SPAN_S: Final = 1.0
"""Shortest period for a rate; over less time it would be noise."""


class StatsSnapshot(Struct, frozen=True):
    """The statistics at one moment; a value is None if no job in the window provides it.

    Attributes:
        tokens_per_second: output tokens of the jobs that ended in the window, as reported by the
            servers, per second of the window.
        first_byte_p50_ms: median time to the first byte of a response.
        first_byte_p95_ms: the 95th percentile of that time.
        error_rate: share (0…1) of ended jobs that failed through the provider's fault.
    """

    tokens_per_second: float | None = None
    first_byte_p50_ms: float | None = None
    first_byte_p95_ms: float | None = None
    error_rate: float | None = None


class Failure(Struct, frozen=True):
    """A job that failed through the provider's fault.

    Attributes:
        at: when it ended, by the clock of the statistics.
        code: why.
    """

    at: float
    code: ErrorCode


class _EndedJob(Struct, frozen=True, gc=False):
    at: float
    output_tokens: int | None
    first_byte_s: float | None
    failed: bool


class RollingStats:
    """A sliding window over ended jobs.

    Args:
        clock: monotonic seconds.

    Attributes:
        last_failure: the last job that failed through the provider's fault, however long ago; None
            if there was none.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.last_failure: Failure | None = None
        self._clock = clock
        self._started_at = clock()
        self._ended: deque[_EndedJob] = deque(maxlen=MAX_ENDED_JOBS)

    def __repr__(self) -> str:
        return f"<RollingStats ended={len(self._ended)}>"

    def job_ended(
        self, *, output_tokens: int | None, first_byte_s: float | None, code: ErrorCode | None
    ) -> None:
        """Count one ended job.

        Args:
            output_tokens: the count that the server reported; None if unknown.
            first_byte_s: seconds from the job's arrival to the first byte; None without one.
            code: the error code; None for a success. Only errors that are the provider's fault
                count as failed.
        """
        now = self._clock()
        failed = code is not None and entry_for(code).fault is Fault.PROVIDER
        if code is not None and failed:
            self.last_failure = Failure(now, code)
        self._ended.append(_EndedJob(now, output_tokens, first_byte_s, failed))

    def snapshot(self) -> StatsSnapshot:
        """Return the current statistics."""
        now = self._clock()
        ended = self._ended
        full = len(ended) == MAX_ENDED_JOBS
        while ended and ended[0].at <= now - WINDOW_S:
            ended.popleft()
            full = False
        if not ended:
            return StatsSnapshot()
        # A full deque has dropped older jobs, so the rate covers only the time of those left.
        since = ended[0].at if full else max(self._started_at, now - WINDOW_S)
        tokens = [job.output_tokens for job in ended if job.output_tokens is not None]
        waits = sorted(job.first_byte_s for job in ended if job.first_byte_s is not None)
        return StatsSnapshot(
            tokens_per_second=sum(tokens) / max(now - since, _MIN_SPAN_S) if tokens else None,
            first_byte_p50_ms=_percentile_ms(waits, 0.50),
            first_byte_p95_ms=_percentile_ms(waits, 0.95),
            error_rate=sum(job.failed for job in ended) / len(ended),
        )


def _percentile_ms(ordered_s: list[float], share: float) -> float | None:
    """Return a percentile, which is a measured value; None without values."""
    return percentile(ordered_s, share) * 1000 if ordered_s else None


def percentile(ordered: list[float], share: float) -> float:
    """Return the nearest-rank percentile of at least one value in ascending order."""
    return ordered[max(ceil(share * len(ordered)), 1) - 1]
