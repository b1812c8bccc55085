import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.agent.backends.breaker import (
    DEFAULT_RULE,
    VENICE_RULE,
    Breaker,
    BreakerRule,
    BreakerState,
)

RULE = BreakerRule(failures=3, within_s=60.0, rest_s=10.0, max_rest_s=35.0)
CLOSED, OPEN, HALF_OPEN = BreakerState


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Script:
    """A breaker and what happens to it, as words: a number of seconds passes, or a job ends."""

    def __init__(self, rule: BreakerRule = RULE) -> None:
        self.clock = Clock()
        self.breaker = Breaker(rule, self.clock)

    def play(self, script: str) -> BreakerState:
        for word in script.split():
            if word[0].isdigit():
                self.clock.now += float(word)
            else:
                self._job(word)
        return self.breaker.state

    def _job(self, end: str) -> None:
        assert self.breaker.admits()
        getattr(self.breaker, end)(self.breaker.started())


@pytest.mark.parametrize(
    ("script", "state"),
    [
        ("", CLOSED),
        ("failed failed", CLOSED),
        ("failed failed failed", OPEN),
        ("failed failed succeeded failed failed", CLOSED),
        ("failed failed dropped failed", OPEN),
        ("failed 30 failed 30 failed", OPEN),
        ("failed 30 failed 31 failed", CLOSED),
        ("failed 30 failed 31 failed 28 failed", OPEN),
        ("failed failed failed 9.9", OPEN),
        ("failed failed failed 10", HALF_OPEN),
        ("failed failed failed 3600", HALF_OPEN),
        ("failed failed failed 10 succeeded", CLOSED),
        ("failed failed failed 10 dropped", HALF_OPEN),
        ("failed failed failed 10 failed", OPEN),
        ("failed failed failed 10 failed 19.9", OPEN),
        ("failed failed failed 10 failed 20", HALF_OPEN),
        ("failed failed failed 10 failed 20 failed 34.9", OPEN),
        ("failed failed failed 10 failed 20 failed 35", HALF_OPEN),
        ("failed failed failed 10 failed 20 failed 35 failed 35", HALF_OPEN),
        ("failed failed failed 10 failed 20 succeeded failed failed failed 10", HALF_OPEN),
        ("failed failed failed 10 succeeded failed failed", CLOSED),
    ],
)
def test_failures_open_it_and_one_trial_decides(script: str, state: BreakerState) -> None:
    assert Script().play(script) is state


def test_half_open_admits_one_trial_at_a_time() -> None:
    script = Script()
    script.play("failed failed failed 10")
    breaker = script.breaker

    seen = [breaker.admits()]
    trial = breaker.started()
    seen.append(breaker.admits())
    breaker.dropped(trial)
    seen.append(breaker.admits())
    breaker.succeeded(breaker.started())
    seen.append(breaker.admits())

    assert seen == [True, False, True, True]


def test_failures_of_jobs_that_ran_already_do_not_prolong_the_rest() -> None:
    script = Script()
    running = script.breaker.started()
    script.play("failed failed failed 5")

    for _ in range(10):
        script.breaker.failed(running)

    assert script.breaker.retry_in_s == pytest.approx(5.0)
    assert script.play("5") is HALF_OPEN
    assert script.play("failed") is OPEN
    assert script.breaker.retry_in_s == pytest.approx(20.0)


@pytest.mark.parametrize(("told_s", "rests_s"), [(5.0, 5.0), (35.0, 35.0), (3600.0, 35.0)])
def test_a_server_may_say_when_to_come_back(told_s: float, rests_s: float) -> None:
    script = Script()

    script.breaker.rest(told_s)

    assert script.breaker.state is OPEN
    assert script.breaker.retry_in_s == pytest.approx(rests_s)
    assert script.play(str(rests_s)) is HALF_OPEN


def test_a_server_does_not_shorten_its_rest() -> None:
    script = Script()
    script.breaker.rest(30.0)

    script.breaker.rest(1.0)

    assert script.breaker.retry_in_s == pytest.approx(30.0)


@pytest.mark.parametrize("end", ["succeeded", "dropped", "failed"])
def test_a_job_from_before_the_opening_ends_no_trial(end: str) -> None:
    """Its end once made room for a second trial, or closed what the server had asked to rest."""
    script = Script()
    old = script.breaker.started()
    script.play("failed failed failed 10")
    script.breaker.started()

    getattr(script.breaker, end)(old)

    assert script.breaker.state is HALF_OPEN
    assert not script.breaker.admits()


def test_a_success_from_before_does_not_cut_a_told_rest_short() -> None:
    script = Script()
    old = script.breaker.started()
    script.breaker.rest(30.0)

    script.breaker.succeeded(old)

    assert script.breaker.retry_in_s == pytest.approx(30.0)


def test_a_failed_trial_does_not_cut_a_told_rest_short() -> None:
    script = Script()
    script.play("failed failed failed 10")
    trial = script.breaker.started()
    script.breaker.rest(35.0)

    script.breaker.failed(trial)

    assert script.breaker.retry_in_s == pytest.approx(35.0)


def test_it_says_where_it_stands() -> None:
    script = Script()
    script.play("failed failed")

    assert repr(script.breaker) == "<Breaker closed failures=2>"
    assert script.breaker.retry_in_s == 0.0


def test_venice_is_left_alone_before_it_blocks_the_key() -> None:
    """More than 20 failed requests in 30 s are answered with a block of 30 s."""
    script = Script(VENICE_RULE)

    script.play("failed " * VENICE_RULE.failures)

    assert VENICE_RULE.failures <= 20
    assert script.breaker.state is OPEN
    assert script.breaker.retry_in_s == 30.0


ENDS = st.sampled_from(["succeeded", "failed", "dropped"])
LIVES = st.lists(st.tuples(st.integers(0, 40), ENDS), max_size=60)


@given(st.sampled_from([RULE, DEFAULT_RULE, VENICE_RULE]), LIVES)
def test_it_never_admits_while_open_and_never_rests_too_long(
    rule: BreakerRule, life: list[tuple[int, str]]
) -> None:
    script = Script(rule)
    for seconds, end in life:
        script.clock.now += seconds
        breaker = script.breaker
        assert breaker.admits() is (breaker.state is not OPEN)
        assert 0.0 <= breaker.retry_in_s <= rule.max_rest_s
        assert (breaker.retry_in_s > 0) is (breaker.state is OPEN)
        if breaker.admits():
            script.play(end)


@given(LIVES)
def test_it_opens_only_after_so_many_failures_in_a_row(life: list[tuple[int, str]]) -> None:
    script, row = Script(), 0
    for seconds, end in life:
        script.clock.now += seconds
        if script.breaker.state is not CLOSED:
            return
        script.play(end)
        row = row + 1 if end == "failed" else row * (end == "dropped")
        assert row >= RULE.failures or script.breaker.state is CLOSED


@given(st.integers(1, 10))
def test_rests_double_up_to_the_longest(trials: int) -> None:
    script = Script()
    script.play("failed failed failed")
    rests = [script.breaker.retry_in_s]
    for _ in range(trials):
        script.clock.now += script.breaker.retry_in_s
        script.play("failed")
        rests.append(script.breaker.retry_in_s)

    expected = [min(RULE.rest_s * 2**n, RULE.max_rest_s) for n in range(trials + 1)]
    assert rests == pytest.approx(expected)


@given(LIVES)
def test_a_success_makes_everything_good_again(life: list[tuple[int, str]]) -> None:
    script = Script()
    for seconds, end in life:
        script.clock.now += seconds
        if script.breaker.admits():
            script.play(end)
    script.clock.now += script.breaker.retry_in_s
    script.play("succeeded")

    assert script.play("failed failed") is CLOSED
    assert script.play("failed") is OPEN
    assert script.breaker.retry_in_s == RULE.rest_s
