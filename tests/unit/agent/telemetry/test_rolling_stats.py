import pytest

from provider_agent.agent.telemetry.rolling_stats import (
    MAX_ENDED_JOBS,
    WINDOW_S,
    Failure,
    RollingStats,
    StatsSnapshot,
)
from provider_agent.protocol.errors import REGISTRY, ErrorCode, Fault
from tests.kit.fake_clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def stats(clock: FakeClock) -> RollingStats:
    return RollingStats(clock)


def end_job(
    stats: RollingStats,
    tokens: int | None = None,
    first_byte_s: float | None = None,
    code: ErrorCode | None = None,
) -> None:
    stats.job_ended(output_tokens=tokens, first_byte_s=first_byte_s, code=code)


def test_statistics_are_none_without_jobs(stats: RollingStats) -> None:
    assert stats.snapshot() == StatsSnapshot(None, None, None, None)


def test_unknown_tokens_leave_only_the_token_rate_none(stats: RollingStats) -> None:
    end_job(stats, tokens=None, first_byte_s=0.1)
    snapshot = stats.snapshot()
    assert snapshot.tokens_per_second is None
    assert snapshot.first_byte_p50_ms == 100
    assert snapshot.error_rate == 0


def test_token_rate_is_tokens_divided_by_the_window(stats: RollingStats, clock: FakeClock) -> None:
    clock.now += 600
    end_job(stats, tokens=600)
    end_job(stats, tokens=None)
    assert stats.snapshot().tokens_per_second == 10


def test_token_rate_of_a_new_agent_is_divided_by_its_age(
    stats: RollingStats, clock: FakeClock
) -> None:
    clock.now += 10
    end_job(stats, tokens=600)
    assert stats.snapshot().tokens_per_second == 60


def test_token_rate_is_divided_by_at_least_one_second(stats: RollingStats) -> None:
    end_job(stats, tokens=5)
    assert stats.snapshot().tokens_per_second == 5


def test_jobs_older_than_the_window_are_dropped(stats: RollingStats, clock: FakeClock) -> None:
    end_job(stats, tokens=5, first_byte_s=1, code=ErrorCode.INTERNAL)
    clock.now += WINDOW_S - 0.001
    assert stats.snapshot().error_rate == 1
    clock.now += 0.001
    assert stats.snapshot() == StatsSnapshot()
    assert repr(stats) == "<RollingStats ended=0>"


@pytest.mark.parametrize("code", ErrorCode)
def test_error_rate_counts_only_provider_faults(stats: RollingStats, code: ErrorCode) -> None:
    end_job(stats, tokens=1)
    end_job(stats, code=code)
    expected = 0.5 if REGISTRY[code].fault is Fault.PROVIDER else 0.0
    assert stats.snapshot().error_rate == expected


@pytest.mark.parametrize(
    ("first_byte_ms", "p50", "p95"),
    [
        ([7], 7, 7),
        ([30, 10, 20], 20, 30),
        ([10, 20, 30, 40], 20, 40),
        (list(range(100, 0, -1)), 50, 95),
    ],
)
def test_percentiles_are_measured_values(
    stats: RollingStats, first_byte_ms: list[int], p50: int, p95: int
) -> None:
    for duration_ms in first_byte_ms:
        end_job(stats, first_byte_s=duration_ms / 1000)
    end_job(stats, first_byte_s=None)
    snapshot = stats.snapshot()
    assert snapshot.first_byte_p50_ms == pytest.approx(p50)
    assert snapshot.first_byte_p95_ms == pytest.approx(p95)


def test_rates_stay_correct_when_more_jobs_end_than_are_kept(
    stats: RollingStats, clock: FakeClock
) -> None:
    clock.now += 100
    for _ in range(3 * MAX_ENDED_JOBS):
        clock.now += 0.001
        end_job(stats, tokens=1)
    assert repr(stats) == f"<RollingStats ended={MAX_ENDED_JOBS}>"
    assert stats.snapshot().tokens_per_second == pytest.approx(1000, rel=0.01)


def test_the_last_failure_is_kept_until_another_one(clock: FakeClock, stats: RollingStats) -> None:
    seen = [stats.last_failure]
    for code in (ErrorCode.BACKEND_TIMEOUT, None, ErrorCode.BAD_REQUEST, ErrorCode.INTERNAL):
        clock.now += 10 * WINDOW_S
        end_job(stats, code=code)
        seen.append(stats.last_failure)

    first = Failure(1000.0 + 10 * WINDOW_S, ErrorCode.BACKEND_TIMEOUT)
    last = Failure(1000.0 + 40 * WINDOW_S, ErrorCode.INTERNAL)
    assert seen == [None, first, first, first, last]
