"""The last jobs and the last hour, for the status. No text of a job is kept."""

from collections import deque
from collections.abc import Callable
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from provider_agent.agent.jobs.job_record import JobRecord
from provider_agent.agent.telemetry.job_status import EndedJobStatus, MinuteStatus
from provider_agent.agent.telemetry.metrics import MILLION, OK
from provider_agent.agent.telemetry.rolling_stats import MAX_ENDED_JOBS, percentile
from provider_agent.protocol.errors import ErrorCode, Fault, entry_for

MAX_LAST_JOBS: Final = 50
"""The most ended jobs that are kept, in about 20 KB."""

MINUTES: Final = 60
"""The number of minutes that are kept."""

_MINUTE_S: Final = 60.0


class _EndedJob(Struct, frozen=True):
    at: float
    status: EndedJobStatus
    """With the age of 0."""
    streamed: bool


class _Minute(Struct):
    number: int
    jobs: int = 0
    failed: int = 0
    refused: int = 0
    output_tokens: int = 0
    size: int = 0
    earned: int = 0
    first_bytes_s: list[float] = []
    """Empty in past minutes, which have the median."""
    first_byte_p50_ms: float | None = None


class JobHistory:
    """Keeps the last jobs, and sums of each minute of the last hour.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started_at = clock()
        self._last: deque[_EndedJob] = deque(maxlen=MAX_LAST_JOBS)
        self._minutes: deque[_Minute] = deque(maxlen=MINUTES)

    def __repr__(self) -> str:
        return f"<JobHistory last={len(self._last)} minutes={len(self._minutes)}>"

    def job_ended(self, record: JobRecord, code: ErrorCode | None, earned: int | None) -> None:
        """Add an ended job.

        Args:
            record: the job.
            code: the error code; None for a success.
            earned: in millionths of a millionth of a US dollar; None: unknown.
        """
        now = self._clock()
        number = self._number(now)
        if not self._minutes or self._minutes[-1].number != number:
            self._begin(number)
        minute = self._minutes[-1]
        if record.refusal is not None:
            minute.refused += 1
            return
        end = record.end
        usage = end.usage
        minute.jobs += 1
        minute.output_tokens += usage.output_tokens or 0
        minute.size += end.total_bytes
        minute.earned += earned or 0
        if code is not None and entry_for(code).fault is Fault.PROVIDER:
            minute.failed += 1
        if record.first_byte_s is not None and len(minute.first_bytes_s) < MAX_ENDED_JOBS:
            minute.first_bytes_s.append(record.first_byte_s)
        status = EndedJobStatus(
            id=end.job_id.hex(),
            model_id=record.model_id,
            backend_id=end.backend_id,
            format=record.wire_format,
            outcome=OK if code is None else code.value,
            age_s=0.0,
            duration_ms=end.duration_ms,
            first_byte_ms=end.first_byte_ms,
            bytes=end.total_bytes,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            input_price_per_1m=end.input_price_per_1m,
            output_price_per_1m=end.output_price_per_1m,
            earned=None if earned is None else earned / MILLION,
            attempts=record.attempts,
        )
        self._last.append(_EndedJob(now, status, record.streamed))

    def last_jobs(self) -> list[EndedJobStatus]:
        """Return the last jobs, the latest first."""
        now = self._clock()
        return [replace(job.status, age_s=now - job.at) for job in reversed(self._last)]

    def last_hour(self) -> list[MinuteStatus]:
        """Return the minutes of the last hour in which a job ended, the latest first."""
        current = self._number(self._clock())
        return [
            MinuteStatus(
                minutes_ago=current - minute.number,
                jobs=minute.jobs,
                failed=minute.failed,
                refused=minute.refused,
                output_tokens=minute.output_tokens,
                bytes=minute.size,
                first_byte_p50_ms=_median_ms(minute),
                earned=minute.earned / MILLION,
            )
            for minute in reversed(self._minutes)
            if current - minute.number < MINUTES
        ]

    def bytes_per_token(self) -> dict[tuple[str, str, str], float]:
        """Return the mean bytes for each output token of the last event streams.

        The keys are backend id, model id and wire format.
        """
        sums: dict[tuple[str, str, str], tuple[int, int]] = {}
        for job in self._last:
            status = job.status
            if job.streamed and status.outcome == OK and status.output_tokens:
                key = (status.backend_id, status.model_id, status.format)
                size, tokens = sums.get(key, (0, 0))
                sums[key] = (size + status.bytes, tokens + status.output_tokens)
        return {key: size / tokens for key, (size, tokens) in sums.items()}

    def _number(self, now: float) -> int:
        return int((now - self._started_at) // _MINUTE_S)

    def _begin(self, number: int) -> None:
        if self._minutes:
            past = self._minutes[-1]
            past.first_byte_p50_ms = _median_ms(past)
            past.first_bytes_s = []
        self._minutes.append(_Minute(number))


def _median_ms(minute: _Minute) -> float | None:
    if not minute.first_bytes_s:
        return minute.first_byte_p50_ms
    return percentile(sorted(minute.first_bytes_s), 0.5) * 1000
