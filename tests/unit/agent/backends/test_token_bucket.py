import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.agent.backends.token_bucket import TokenBucket, limited


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("spent", "waited_s", "wait_s"),
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
def test_below_zero_jobs_wait_until_it_has_refilled(
    spent: int, waited_s: float, wait_s: float
) -> None:
    clock = Clock()
    bucket = TokenBucket(60, clock)

    bucket.spend(spent)
    clock.now += waited_s

    assert bucket.wait_s == pytest.approx(wait_s)


def test_an_idle_hour_is_not_saved_up() -> None:
    clock = Clock()
    bucket = TokenBucket(60, clock)

    clock.now += 3600
    bucket.spend(61)

    assert bucket.wait_s > 0


def test_it_says_what_it_holds() -> None:
    bucket = TokenBucket(60, Clock())
    bucket.spend(70)

    assert repr(bucket) == "<TokenBucket -10 of 60 per minute>"


SPENT = st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 300)), max_size=30)


@given(st.integers(1, 10_000), SPENT)
def test_after_the_wait_that_it_tells_a_job_is_admitted(
    per_minute: int, spent: list[tuple[int, float]]
) -> None:
    clock = Clock()
    bucket = TokenBucket(per_minute, clock)
    for tokens, seconds in spent:
        bucket.spend(tokens)
        clock.now += seconds

    clock.now += bucket.wait_s

    assert bucket.wait_s == 0.0


@given(st.integers(60, 10_000), st.integers(1, 5000), st.lists(st.floats(0, 20), max_size=50))
def test_on_average_the_limit_holds(per_minute: int, job: int, pauses: list[float]) -> None:
    """Over any time: what flowed in, what it held at first, and at most one job above that."""
    clock = Clock()
    bucket = TokenBucket(per_minute, clock)
    began, used = clock.now, 0
    for pause_s in pauses:
        clock.now += pause_s
        if bucket.wait_s == 0:
            bucket.spend(job)
            used += job

    assert used <= per_minute + (clock.now - began) * per_minute / 60 + job + 1e-3


@given(st.integers(1, 1000), st.lists(st.integers(0, 500), max_size=20))
def test_looking_costs_nothing(per_minute: int, spent: list[int]) -> None:
    clock = Clock()
    looked, unseen = TokenBucket(per_minute, clock), TokenBucket(per_minute, clock)
    for tokens in spent:
        clock.now += 1.0
        assert looked.wait_s >= 0
        looked.spend(tokens)
        unseen.spend(tokens)

    assert looked.wait_s == pytest.approx(unseen.wait_s)


@pytest.mark.parametrize(
    ("before", "spent", "after", "wait_s"),
    [
        (60, 0, 600, 0.0),
        (60, 90, 600, 3.1),
        (600, 90, 60, 0.0),
        (600, 659, 60, 60.0),
        (600, 599, 60, 0.0),
        (600, 600, 60, 1.0),
    ],
)
def test_another_limit_forgets_nothing_that_was_spent(
    before: int, spent: int, after: int, wait_s: float
) -> None:
    bucket = TokenBucket(before, Clock())
    bucket.spend(spent)

    bucket.allow(after)

    assert bucket.wait_s == pytest.approx(wait_s)


def test_a_lower_limit_holds_no_more_than_itself() -> None:
    bucket = TokenBucket(6000, Clock())
    bucket.allow(60)
    bucket.spend(61)

    assert bucket.wait_s == pytest.approx(2.0)


def test_what_flowed_in_before_the_change_flowed_at_the_old_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(60, clock)
    bucket.spend(100)
    clock.now += 10
    bucket.allow(600)

    assert bucket.wait_s == pytest.approx(3.1)


def test_a_limit_can_be_set_changed_and_lifted() -> None:
    clock = Clock()
    bucket = limited(None, 60, clock)
    assert bucket is not None
    assert limited(bucket, 70, clock) is bucket
    assert limited(bucket, None, clock) is None
    assert limited(None, None, clock) is None
