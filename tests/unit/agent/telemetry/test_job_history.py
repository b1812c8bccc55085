import pytest

from provider_agent.agent.backends.routing import RefusalReason
from provider_agent.agent.jobs.job_record import JobRecord
from provider_agent.agent.telemetry.job_history import MAX_LAST_JOBS, MINUTES, JobHistory
from provider_agent.agent.telemetry.job_status import EndedJobStatus, MinuteStatus
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import JobError, JobResult, Usage
from tests.kit.fake_clock import FakeClock

MILLIONTH = 1_000_000
"""A millionth of a dollar, in the unit of `JobHistory.job_ended`."""


def success(first_byte_s: float | None = 0.01, number: int = 1) -> JobRecord:
    end = JobResult(number.to_bytes(16, "big"), 400, Usage(30, 40), "b", 2000, 10, 1, 2)
    return JobRecord("openai", "vllm", end, first_byte_s, 2, "m", streamed=True)


def failure(code: ErrorCode) -> JobRecord:
    end = JobError(b"f" * 16, 0, code, "SECRET of the prompt", body=b"SECRET", backend_id="b")
    return JobRecord("openai", "vllm", end, None, 1, "m")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def history(clock: FakeClock) -> JobHistory:
    return JobHistory(clock)


def test_ended_job_is_listed_with_its_numbers(history: JobHistory, clock: FakeClock) -> None:
    history.job_ended(success(), None, 7 * MILLIONTH)
    clock.now += 3
    assert history.last_jobs() == [
        EndedJobStatus(
            id=f"{1:032x}",
            model_id="m",
            backend_id="b",
            format="openai",
            outcome="ok",
            age_s=3.0,
            duration_ms=2000,
            first_byte_ms=10,
            bytes=400,
            input_tokens=30,
            output_tokens=40,
            input_price_per_1m=1,
            output_price_per_1m=2,
            earned=7.0,
            attempts=2,
        )
    ]


def test_failed_job_is_listed_with_its_code_and_without_its_message(history: JobHistory) -> None:
    history.job_ended(failure(ErrorCode.BACKEND_ERROR), ErrorCode.BACKEND_ERROR, None)
    (job,) = history.last_jobs()
    assert job.outcome == "backend_error"
    assert "SECRET" not in repr(job)


def test_latest_job_is_first_and_the_list_is_bounded(history: JobHistory) -> None:
    for number in range(MAX_LAST_JOBS + 5):
        history.job_ended(success(number=number), None, None)
    ids = [int(job.id, 16) for job in history.last_jobs()]
    assert ids == list(range(MAX_LAST_JOBS + 4, 4, -1))


def test_each_minute_sums_its_jobs(history: JobHistory, clock: FakeClock) -> None:
    for first_byte_s in (0.3, 0.1, 0.2, None):
        history.job_ended(success(first_byte_s), None, MILLIONTH)
    for code in (ErrorCode.BACKEND_ERROR, ErrorCode.CANCELLED):
        history.job_ended(failure(code), code, None)
    clock.now += 120
    refused = JobRecord(
        "openai",
        "",
        JobError(b"r" * 16, 0, ErrorCode.OUT_OF_CAPACITY, "full"),
        None,
        0,
        "m",
        refusal=RefusalReason.AGENT_FULL,
    )
    history.job_ended(refused, ErrorCode.OUT_OF_CAPACITY, None)
    past = MinuteStatus(
        minutes_ago=2,
        jobs=6,
        failed=1,
        output_tokens=160,
        bytes=1600,
        first_byte_p50_ms=200.0,
        earned=4.0,
    )
    assert history.last_hour() == [MinuteStatus(minutes_ago=0, refused=1), past]
    assert len(history.last_jobs()) == 6


def test_current_minute_has_a_median_too(history: JobHistory) -> None:
    history.job_ended(success(0.25), None, None)
    assert history.last_hour()[0].first_byte_p50_ms == 250.0


def test_minutes_before_the_last_hour_are_dropped(history: JobHistory, clock: FakeClock) -> None:
    for _ in range(MINUTES + 3):
        history.job_ended(success(), None, None)
        clock.now += 60
    ages = [minute.minutes_ago for minute in history.last_hour()]
    assert ages == list(range(1, MINUTES))
    clock.now += 3600
    assert history.last_hour() == []


def test_bytes_per_token_are_the_mean_of_successful_streams(history: JobHistory) -> None:
    assert history.bytes_per_token() == {}
    history.job_ended(success(), None, None)
    history.job_ended(failure(ErrorCode.CANCELLED), ErrorCode.CANCELLED, None)
    assert history.bytes_per_token() == {("b", "m", "openai"): 10.0}
