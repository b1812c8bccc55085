"""The last jobs and the last hour, for the status. No text of a job is kept."""

from collections import deque
from collections.abc import Callable
from typing import Final

from msgspec import Struct

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


class _EndedJob(Struct, frozen=True, gc=False):
    """What is kept of a job; `earned` is in millionths of a millionth of a US dollar."""

    at: float
    job_id: bytes
    model_id: str
    backend_id: str
    wire_format: str
    code: ErrorCode | None
    duration_ms: int
    first_byte_ms: int | None
    size: int
    input_tokens: int | None
    output_tokens: int | None
    input_price_per_1m: int | None
    output_price_per_1m: int | None
    earned: int | None
    attempts: int
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
        self._last.append(
            _EndedJob(
                now,
                end.job_id,
                record.model_id,
                end.backend_id,
                record.wire_format,
                code,
                end.duration_ms,
                end.first_byte_ms,
                end.total_bytes,
                usage.input_tokens,
                usage.output_tokens,
                end.input_price_per_1m,
                end.output_price_per_1m,
                earned,
                record.attempts,
                record.streamed,
            )
        )

    def last_jobs(self) -> list[EndedJobStatus]:
        """Return the last jobs, the latest first."""
        now = self._clock()
        return [_job_status(job, now) for job in reversed(self._last)]

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
            if job.streamed and job.code is None and job.output_tokens:
                key = (job.backend_id, job.model_id, job.wire_format)
                size, tokens = sums.get(key, (0, 0))
                sums[key] = (size + job.size, tokens + job.output_tokens)
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


def _job_status(job: _EndedJob, now: float) -> EndedJobStatus:
    return EndedJobStatus(
        id=job.job_id.hex(),
        model_id=job.model_id,
        backend_id=job.backend_id,
        format=job.wire_format,
        outcome=OK if job.code is None else job.code.value,
        age_s=now - job.at,
        duration_ms=job.duration_ms,
        first_byte_ms=job.first_byte_ms,
        bytes=job.size,
        input_tokens=job.input_tokens,
        output_tokens=job.output_tokens,
        input_price_per_1m=job.input_price_per_1m,
        output_price_per_1m=job.output_price_per_1m,
        earned=None if job.earned is None else job.earned / MILLION,
        attempts=job.attempts,
    )
