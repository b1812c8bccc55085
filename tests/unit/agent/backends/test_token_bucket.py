import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.agent.backends.token_bucket import TokenBucket, resize_bucket
from tests.kit.fake_clock import FakeClock


@pytest.mark.parametrize(
    ("consumed", "waited_s", "wait_s"),
    [
        (0, 0, 0.0),
        (59, 0, 0.0),
        (60, 0, 1.0),
        (60, 0.5, 0.0),
        (90, 0, 31.0),
        (90, 30, 1.0),
        (90, 31, 0.0),
        (90, 3600, 0.0),
        (6000, 60, 5881.0),
    ],
)
def test_jobs_wait_while_the_bucket_is_empty_or_overdrawn(
    consumed: int, waited_s: float, wait_s: float
) -> None:
    clock = FakeClock()
    bucket = TokenBucket(60, clock)

    bucket.consume(consumed)
    clock.now += waited_s

    assert bucket.wait_s == pytest.approx(wait_s)


def test_bucket_never_holds_tokens_for_more_than_one_minute() -> None:
    clock = FakeClock()
    bucket = TokenBucket(60, clock)

    clock.now += 3600
    bucket.consume(61)

    assert bucket.wait_s > 0


def test_repr_shows_the_available_tokens() -> None:
    bucket = TokenBucket(60, FakeClock())
    bucket.consume(70)

    assert repr(bucket) == "<TokenBucket -10 of 60 per minute>"


CONSUMPTION = st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 300)), max_size=30)


@given(st.integers(1, 10_000), CONSUMPTION)
def test_a_job_is_admitted_after_the_reported_wait(
    per_minute: int, consumed: list[tuple[int, float]]
) -> None:
    clock = FakeClock()
    bucket = TokenBucket(per_minute, clock)
    for tokens, seconds in consumed:
        bucket.consume(tokens)
        clock.now += seconds

    clock.now += bucket.wait_s

    assert bucket.wait_s == 0.0


@given(st.integers(60, 10_000), st.integers(1, 5000), st.lists(st.floats(0, 20), max_size=50))
def test_the_limit_holds_on_average(per_minute: int, job: int, pauses: list[float]) -> None:
    """At most the initial capacity, the refilled tokens and those of one more job are used."""
    clock = FakeClock()
    bucket = TokenBucket(per_minute, clock)
    began, used = clock.now, 0
    for pause_s in pauses:
        clock.now += pause_s
        if bucket.wait_s == 0:
            bucket.consume(job)
            used += job

    assert used <= per_minute + (clock.now - began) * per_minute / 60 + job + 1e-3


@given(st.integers(1, 1000), st.lists(st.integers(0, 500), max_size=20))
def test_reading_the_wait_consumes_nothing(per_minute: int, consumed: list[int]) -> None:
    clock = FakeClock()
    read, unread = TokenBucket(per_minute, clock), TokenBucket(per_minute, clock)
    for tokens in consumed:
        clock.now += 1.0
        assert read.wait_s >= 0
        read.consume(tokens)
        unread.consume(tokens)

    assert read.wait_s == pytest.approx(unread.wait_s)


@pytest.mark.parametrize(
    ("before", "consumed", "after", "wait_s"),
    [
        (60, 0, 600, 0.0),
        (60, 90, 600, 3.1),
        (600, 90, 60, 0.0),
        (600, 659, 60, 60.0),
        (600, 599, 60, 0.0),
        (600, 600, 60, 1.0),
    ],
)
def test_tokens_consumed_before_a_change_still_count(
    before: int, consumed: int, after: int, wait_s: float
) -> None:
    bucket = TokenBucket(before, FakeClock())
    bucket.consume(consumed)

    bucket.set_rate(after)

    assert bucket.wait_s == pytest.approx(wait_s)


def test_a_lower_limit_lowers_the_capacity() -> None:
    bucket = TokenBucket(6000, FakeClock())
    bucket.set_rate(60)
    bucket.consume(61)

    assert bucket.wait_s == pytest.approx(2.0)


def test_refill_before_a_change_uses_the_old_rate() -> None:
    clock = FakeClock()
    bucket = TokenBucket(60, clock)
    bucket.consume(100)
    clock.now += 10
    bucket.set_rate(600)

    assert bucket.wait_s == pytest.approx(3.1)


def test_resize_bucket_sets_changes_and_removes_a_limit() -> None:
    clock = FakeClock()
    bucket = resize_bucket(None, 60, clock)
    assert bucket is not None
    assert resize_bucket(bucket, 70, clock) is bucket
    assert repr(bucket) == "<TokenBucket 60 of 70 per minute>"
    assert resize_bucket(bucket, None, clock) is None
    assert resize_bucket(None, None, clock) is None
