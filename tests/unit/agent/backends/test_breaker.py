from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.breaker_rule import BreakerRule
from provider_agent.adapters.servers.venice import VeniceBackend
from provider_agent.agent.backends.breaker import Breaker, BreakerState
from tests.kit.fake_clock import FakeClock

DEFAULT_RULE = BreakerRule()
VENICE_RULE = VeniceBackend.breaker_rule
RULE = BreakerRule(failures=3, window_s=60.0, open_s=10.0, max_open_s=35.0)
CLOSED, OPEN, HALF_OPEN = BreakerState


class BreakerScript:
    """Runs a script on a breaker.

    A number advances the clock by seconds. A word starts a job, and names the `Breaker` method that
    reports its end.
    """

    def __init__(self, rule: BreakerRule = RULE) -> None:
        self.clock = FakeClock()
        self.breaker = Breaker(rule, self.clock)
        self._requests = count()

    def play(self, script: str) -> BreakerState:
        for word in script.split():
            if word[0].isdigit():
                self.clock.now += float(word)
            else:
                self._run_job(word)
            assert self.breaker.closed is (self.breaker.state is CLOSED)
        return self.breaker.state

    def _run_job(self, end: str) -> None:
        assert self.breaker.admits()
        self.report(end, self.breaker.start())

    def report(self, end: str, generation: int) -> None:
        """Report the end of a job; each failed job has a different request."""
        if end == "failed":
            self.breaker.failed(generation, next(self._requests))
        else:
            getattr(self.breaker, end)(generation)


@pytest.mark.parametrize(
    ("script", "state"),
    [
        ("", CLOSED),
        ("failed failed", CLOSED),
        ("failed failed failed", OPEN),
        ("failed failed succeeded failed failed", CLOSED),
        ("failed failed ignored failed", OPEN),
        ("failed 30 failed 30 failed", OPEN),
        ("failed 30 failed 31 failed", CLOSED),
        ("failed 30 failed 31 failed 28 failed", OPEN),
        ("failed failed failed 9.9", OPEN),
        ("failed failed failed 10", HALF_OPEN),
        ("failed failed failed 3600", HALF_OPEN),
        ("failed failed failed 10 succeeded", CLOSED),
        ("failed failed failed 10 ignored", HALF_OPEN),
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
def test_breaker_opens_after_repeated_failures_and_one_trial_decides(
    script: str, state: BreakerState
) -> None:
    assert BreakerScript().play(script) is state


def test_half_open_admits_one_trial_at_a_time() -> None:
    script = BreakerScript()
    script.play("failed failed failed 10")
    breaker = script.breaker

    admitted = [breaker.admits()]
    trial = breaker.start()
    admitted.append(breaker.admits())
    breaker.ignored(trial)
    admitted.append(breaker.admits())
    breaker.succeeded(breaker.start())
    admitted.append(breaker.admits())

    assert admitted == [True, False, True, True]


def test_failures_of_jobs_started_before_the_opening_do_not_prolong_it() -> None:
    script = BreakerScript()
    running = script.breaker.start()
    script.play("failed failed failed 5")

    for _ in range(10):
        script.report("failed", running)

    assert script.breaker.remaining_open_s == pytest.approx(5.0)
    assert script.play("5") is HALF_OPEN
    assert script.play("failed") is OPEN
    assert script.breaker.remaining_open_s == pytest.approx(20.0)


@pytest.mark.parametrize(("asked_s", "open_s"), [(5.0, 5.0), (35.0, 35.0), (3600.0, 35.0)])
def test_breaker_opens_for_the_wait_that_a_server_asks_for(asked_s: float, open_s: float) -> None:
    script = BreakerScript()

    script.breaker.open_for(asked_s)

    assert script.breaker.state is OPEN
    assert script.breaker.remaining_open_s == pytest.approx(open_s)
    assert script.play(str(open_s)) is HALF_OPEN


def test_a_shorter_wait_does_not_replace_a_longer_one() -> None:
    script = BreakerScript()
    script.breaker.open_for(30.0)

    script.breaker.open_for(1.0)

    assert script.breaker.remaining_open_s == pytest.approx(30.0)


@pytest.mark.parametrize("end", ["succeeded", "ignored", "failed"])
def test_results_of_jobs_started_before_the_opening_are_ignored(end: str) -> None:
    # In an earlier version, such a result allowed a second trial, or shortened a wait that the
    # server had asked for.
    script = BreakerScript()
    old = script.breaker.start()
    script.play("failed failed failed 10")
    script.breaker.start()

    script.report(end, old)

    assert script.breaker.state is HALF_OPEN
    assert not script.breaker.admits()


def test_a_success_of_a_job_started_before_the_opening_does_not_shorten_the_wait() -> None:
    script = BreakerScript()
    old = script.breaker.start()
    script.breaker.open_for(30.0)

    script.breaker.succeeded(old)

    assert script.breaker.remaining_open_s == pytest.approx(30.0)


def test_a_failed_trial_does_not_shorten_the_wait_that_a_server_asked_for() -> None:
    script = BreakerScript()
    script.play("failed failed failed 10")
    trial = script.breaker.start()
    script.breaker.open_for(35.0)

    script.report("failed", trial)

    assert script.breaker.remaining_open_s == pytest.approx(35.0)


def test_repr_shows_state_and_failures() -> None:
    script = BreakerScript()
    script.play("failed failed")

    assert repr(script.breaker) == "<Breaker closed failures=2>"
    assert script.breaker.remaining_open_s == 0.0


def test_venice_rule_opens_before_venice_blocks_the_key() -> None:
    """Venice blocks a key for 30 s after more than 20 failed requests in 30 s."""
    script = BreakerScript(VENICE_RULE)

    script.play("failed " * VENICE_RULE.failures)

    assert VENICE_RULE.failures <= 20
    assert script.breaker.state is OPEN
    assert script.breaker.remaining_open_s == 30.0


ENDS = st.sampled_from(["succeeded", "failed", "ignored"])
HISTORIES = st.lists(st.tuples(st.integers(0, 40), ENDS), max_size=60)


@given(st.sampled_from([RULE, DEFAULT_RULE, VENICE_RULE]), HISTORIES)
def test_an_open_breaker_admits_nothing_and_its_wait_is_bounded(
    rule: BreakerRule, history: list[tuple[int, str]]
) -> None:
    script = BreakerScript(rule)
    for seconds, end in history:
        script.clock.now += seconds
        breaker = script.breaker
        assert breaker.admits() is (breaker.state is not OPEN)
        assert 0.0 <= breaker.remaining_open_s <= rule.max_open_s
        assert (breaker.remaining_open_s > 0) is (breaker.state is OPEN)
        if breaker.admits():
            script.play(end)


@given(HISTORIES)
def test_breaker_opens_only_after_enough_failures_in_a_row(history: list[tuple[int, str]]) -> None:
    script, failures_in_a_row = BreakerScript(), 0
    for seconds, end in history:
        script.clock.now += seconds
        if script.breaker.state is not CLOSED:
            return
        script.play(end)
        if end == "failed":
            failures_in_a_row += 1
        elif end == "succeeded":
            failures_in_a_row = 0
        assert failures_in_a_row >= RULE.failures or script.breaker.state is CLOSED


@given(st.integers(1, 10))
def test_waits_double_up_to_the_maximum(trials: int) -> None:
    script = BreakerScript()
    script.play("failed failed failed")
    waits = [script.breaker.remaining_open_s]
    for _ in range(trials):
        script.clock.now += script.breaker.remaining_open_s
        script.play("failed")
        waits.append(script.breaker.remaining_open_s)

    expected = [min(RULE.open_s * 2**n, RULE.max_open_s) for n in range(trials + 1)]
    assert waits == pytest.approx(expected)


@given(HISTORIES)
def test_a_success_resets_failures_and_wait(history: list[tuple[int, str]]) -> None:
    script = BreakerScript()
    for seconds, end in history:
        script.clock.now += seconds
        if script.breaker.admits():
            script.play(end)
    script.clock.now += script.breaker.remaining_open_s
    script.play("succeeded")

    assert script.play("failed failed") is CLOSED
    assert script.play("failed") is OPEN
    assert script.breaker.remaining_open_s == RULE.open_s


def test_reset_closes_a_breaker_whose_trial_failed_after_a_requested_wait() -> None:
    harness = BreakerScript()
    harness.breaker.open_for(5.0)

    assert harness.play("6 failed") is OPEN
    harness.breaker.reset()

    assert harness.breaker.state is CLOSED
