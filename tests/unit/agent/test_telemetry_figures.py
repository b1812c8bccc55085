import pytest

from agent.telemetry.figures import MAX_ENDED_JOBS, WINDOW_S, Figures, FigureSnapshot
from protocol.errors import REGISTRY, ErrorCode, Fault


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def figures(clock: Clock) -> Figures:
    return Figures(clock)


def ended(
    figures: Figures,
    tokens: int | None = None,
    first_byte_s: float | None = None,
    code: ErrorCode | None = None,
) -> None:
    figures.job_ended(output_tokens=tokens, first_byte_s=first_byte_s, code=code)


def test_nothing_measured_is_none_and_not_zero(figures: Figures) -> None:
    assert figures.snapshot() == FigureSnapshot(None, None, None, None)


def test_unknown_tokens_are_unknown_while_the_rest_is_reported(figures: Figures) -> None:
    ended(figures, tokens=None, first_byte_s=0.1)
    snapshot = figures.snapshot()
    assert snapshot.tokens_per_second is None
    assert snapshot.first_byte_p50_ms == 100
    assert snapshot.error_rate == 0


def test_tokens_are_spread_over_the_window(figures: Figures, clock: Clock) -> None:
    clock.now += 600
    ended(figures, tokens=600)
    ended(figures, tokens=None)
    assert figures.snapshot().tokens_per_second == 10


def test_a_young_agent_divides_by_its_age(figures: Figures, clock: Clock) -> None:
    clock.now += 10
    ended(figures, tokens=600)
    assert figures.snapshot().tokens_per_second == 60


def test_the_first_moment_is_no_division_by_zero(figures: Figures) -> None:
    ended(figures, tokens=5)
    assert figures.snapshot().tokens_per_second == 5


def test_jobs_leave_the_window(figures: Figures, clock: Clock) -> None:
    ended(figures, tokens=5, first_byte_s=1, code=ErrorCode.INTERNAL)
    clock.now += WINDOW_S - 0.001
    assert figures.snapshot().error_rate == 1
    clock.now += 0.001
    assert figures.snapshot() == FigureSnapshot()
    assert repr(figures) == "<Figures ended=0>"


@pytest.mark.parametrize("code", ErrorCode)
def test_only_the_providers_failures_count_as_failed(figures: Figures, code: ErrorCode) -> None:
    ended(figures, tokens=1)
    ended(figures, code=code)
    expected = 0.5 if REGISTRY[code].fault is Fault.PROVIDER else 0.0
    assert figures.snapshot().error_rate == expected


@pytest.mark.parametrize(
    ("waits_ms", "p50", "p95"),
    [
        ([7], 7, 7),
        ([30, 10, 20], 20, 30),
        ([10, 20, 30, 40], 20, 40),
        (list(range(100, 0, -1)), 50, 95),
    ],
)
def test_percentiles_are_measured_values(
    figures: Figures, waits_ms: list[int], p50: int, p95: int
) -> None:
    for wait in waits_ms:
        ended(figures, first_byte_s=wait / 1000)
    ended(figures, first_byte_s=None)
    snapshot = figures.snapshot()
    assert snapshot.first_byte_p50_ms == pytest.approx(p50)
    assert snapshot.first_byte_p95_ms == pytest.approx(p95)


def test_memory_is_bounded_and_rates_stay_true(figures: Figures, clock: Clock) -> None:
    clock.now += 100
    for _ in range(3 * MAX_ENDED_JOBS):
        clock.now += 0.001
        ended(figures, tokens=1)
    assert repr(figures) == f"<Figures ended={MAX_ENDED_JOBS}>"
    assert figures.snapshot().tokens_per_second == pytest.approx(1000, rel=0.01)
