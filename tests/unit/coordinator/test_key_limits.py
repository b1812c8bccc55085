"""The limits of API keys, with a clock that stands still."""

import random

import pytest

from provider_agent.coordinator.key_limits import KeyLimits, OwnUsage, key_id
from provider_agent.coordinator.usage_window import SLOT_S, WINDOW_S, Unit, UsageWindow
from tests.kit.fake_clock import FakeClock

KEY, OTHER, UNKNOWN = (key_id(name) for name in (b"key", b"other", b"unknown"))
LONGEST_S = WINDOW_S + SLOT_S


def limits(clock: FakeClock, requests: int | None = None, tokens: int | None = None) -> KeyLimits:
    return KeyLimits([KEY, OTHER], max_requests=requests, max_tokens=tokens, clock=clock)


def test_request_beyond_the_limit_is_refused_until_an_older_one_leaves_the_window() -> None:
    clock = FakeClock()
    limited = limits(clock, requests=3)
    for _ in range(3):
        assert limited.accept(KEY) is None
        clock.now += 10
    reached = limited.accept(KEY)
    assert reached is not None
    assert (reached.unit, reached.limit, reached.wait_s) == (Unit.REQUESTS, 3, LONGEST_S - 30)
    clock.now += reached.wait_s - 0.01
    assert limited.accept(KEY) is not None
    clock.now += 0.01
    assert limited.accept(KEY) is None
    assert limited.accept(KEY) is not None


def test_refused_requests_do_not_count() -> None:
    clock = FakeClock()
    limited = limits(clock, requests=1)
    assert limited.accept(KEY) is None
    for _ in range(5000):
        assert limited.accept(KEY) is not None
    clock.now += LONGEST_S
    assert limited.accept(KEY) is None


def test_no_minute_has_more_requests_than_the_limit() -> None:
    clock = FakeClock()
    limited = limits(clock, requests=20)
    choose = random.Random(5)
    accepted: list[float] = []
    refused = 0
    for _ in range(5000):
        clock.now += choose.choice([0.0, 0.01, 0.4, 0.99, 1.0, 3.0, 12.0])
        if limited.accept(KEY) is None:
            accepted.append(clock.now)
        else:
            refused += 1
        assert sum(clock.now - at < WINDOW_S for at in accepted[-21:]) <= 20
    assert min(len(accepted), refused) > 500


def test_tokens_count_when_a_request_ends_and_refuse_the_next() -> None:
    clock = FakeClock()
    limited = limits(clock, tokens=100)
    assert limited.accept(KEY) is None
    limited.add_tokens(KEY, 99)
    assert limited.accept(KEY) is None
    clock.now += 20
    limited.add_tokens(KEY, 500)  # one request may exceed the limit
    reached = limited.accept(KEY)
    assert reached is not None
    # Without the first 99, the others are still too many.
    assert (reached.unit, reached.wait_s) == (Unit.TOKENS, LONGEST_S)


def test_longer_wait_of_two_limits_is_reported() -> None:
    clock = FakeClock()
    limited = limits(clock, requests=1, tokens=10)
    limited.accept(KEY)
    clock.now += 30
    limited.add_tokens(KEY, 10)
    reached = limited.accept(KEY)
    assert reached is not None
    assert (reached.unit, reached.wait_s) == (Unit.TOKENS, LONGEST_S)


def test_each_key_has_its_own_limit() -> None:
    limited = limits(FakeClock(), requests=1)
    assert limited.accept(KEY) is None
    assert limited.accept(OTHER) is None
    assert limited.accept(KEY) is not None


def test_usage_of_unknown_keys_takes_no_memory() -> None:
    limited = limits(FakeClock(), requests=1, tokens=1)
    for number in range(1000):
        unknown = key_id(bytes([number % 256, number // 256]))
        limited.add_remote(unknown, 5, 5)
        limited.add_tokens(unknown, 5)
        assert limited.accept(unknown) is None
    assert "used=0" in repr(limited)
    assert limited.take_changed() == []


def test_remote_usage_counts_for_a_minute() -> None:
    clock = FakeClock()
    limited = limits(clock, requests=10, tokens=1000)
    limited.add_remote(KEY, 10, 0)
    limited.add_remote(OTHER, 0, 2**53)
    for key, unit in ((KEY, Unit.REQUESTS), (OTHER, Unit.TOKENS)):
        reached = limited.accept(key)
        assert reached is not None
        assert (reached.unit, reached.wait_s) == (unit, LONGEST_S)
    clock.now += LONGEST_S
    assert limited.accept(KEY) is None
    assert limited.accept(OTHER) is None


def test_changes_are_reported_once_and_without_the_usage_of_others() -> None:
    clock = FakeClock()
    limited = limits(clock, requests=10, tokens=1000)
    limited.accept(KEY)
    limited.add_tokens(KEY, 7)
    limited.add_remote(OTHER, 3, 3)
    assert limited.take_changed() == [OwnUsage(KEY, 1, 7, 1, 7)]
    assert limited.take_changed() == []
    clock.now += LONGEST_S
    limited.accept(KEY)
    assert limited.take_changed() == [OwnUsage(KEY, 2, 7, 1, 0)]


def test_report_of_all_keys_has_only_those_of_the_last_minute() -> None:
    clock = FakeClock()
    limited = limits(clock, requests=10)
    limited.accept(OTHER)
    clock.now += LONGEST_S
    limited.accept(KEY)
    limited.take_changed()
    limited.report_all()
    assert limited.take_changed() == [OwnUsage(KEY, 1, 0, 1, 0)]


@pytest.mark.parametrize("step_s", [0.0001, 0.5, 1.0, 7.0])
def test_window_stays_small_and_forgets_everything(step_s: float) -> None:
    window, now = UsageWindow(), 1000.0
    for _ in range(2000):
        now += step_s
        window.add(now, 1, 2)
        assert len(window) <= WINDOW_S + 2
    window.expire(now + LONGEST_S)
    assert (window.used, len(window)) == ([0, 0], 0)
