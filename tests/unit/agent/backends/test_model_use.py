import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.agent.backends.model_use import (
    MAX_MODELS,
    MAX_TIMINGS,
    MIN_PREFILL_TOKENS,
    WINDOW_S,
    JobTiming,
    ModelUsage,
    ModelUse,
)
from tests.kit.fake_clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def use(clock: FakeClock) -> ModelUse:
    return ModelUse(clock)


def timing(
    input_tokens: int | None = 1000,
    output_tokens: int | None = 101,
    *,
    cached: int | None = None,
    first_byte_s: float = 2.0,
    duration_s: float = 4.0,
) -> JobTiming:
    return JobTiming(input_tokens, cached, output_tokens, first_byte_s, duration_s)


@pytest.mark.parametrize(
    ("timings", "prefill", "decode"),
    [
        ([timing()], 500.0, 50.0),
        ([timing(cached=600)], 200.0, 50.0),
        # One output token is too few to measure a decode speed.
        ([timing(), timing(3000, 1, first_byte_s=2.0)], 1000.0, 50.0),
        # 500 tokens in three seconds; the mean of the jobs' decode speeds would be 225.
        ([timing(output_tokens=401, duration_s=3.0), timing()], 500.0, 500 / 3),
        ([timing(None, None)], None, None),
        ([timing(MIN_PREFILL_TOKENS - 1, 1)], None, None),
        ([timing(1000, 1000, cached=1000)], None, 499.5),
        # More cached than input tokens: the count is wrong, and not used.
        ([timing(1000, None, cached=5000)], None, None),
        ([timing(first_byte_s=0.0, duration_s=0.0)], None, None),
    ],
)
def test_speeds_are_tokens_divided_by_the_time_that_they_took(
    use: ModelUse, timings: list[JobTiming], prefill: float | None, decode: float | None
) -> None:
    for one in timings:
        use.measured("m", one)

    assert use.usage() == {"m": ModelUsage(0, prefill, decode)}


def test_ended_jobs_and_speeds_are_forgotten_after_the_window(
    use: ModelUse, clock: FakeClock
) -> None:
    use.started("running")
    use.measured("running", timing())
    use.started("ended")
    use.ended("ended")

    clock.now += WINDOW_S

    assert use.usage() == {"running": ModelUsage(1)}


def test_the_latest_use_comes_first(use: ModelUse) -> None:
    for name in ("a", "b", "c", "a"):
        use.started(name)

    assert list(use.usage()) == ["a", "c", "b"]
    assert use.usage()["a"].in_flight == 2


def test_models_and_timings_are_bounded_but_running_jobs_are_kept(use: ModelUse) -> None:
    use.started("running")
    for number in range(MAX_MODELS * 2):
        use.started(str(number))
        use.ended(str(number))

    kept = use.usage()
    assert len(kept) == MAX_MODELS
    assert kept["running"].in_flight == 1

    use.measured("m", timing(1_000_000))
    for _ in range(MAX_TIMINGS):
        use.measured("m", timing())
    assert use.usage()["m"].prefill_tokens_per_second == 500.0


@given(
    st.lists(
        st.builds(
            JobTiming,
            st.none() | st.integers(0, 10**6),
            st.none() | st.integers(0, 10**6),
            st.none() | st.integers(0, 10**6),
            st.floats(0, 100),
            st.floats(0, 100),
        )
    )
)
def test_a_speed_is_positive_or_unknown(timings: list[JobTiming]) -> None:
    use = ModelUse(FakeClock())
    for one in timings:
        use.measured("m", one)

    for usage in use.usage().values():
        for speed in (usage.prefill_tokens_per_second, usage.decode_tokens_per_second):
            assert speed is None or 0 < speed < float("inf")
