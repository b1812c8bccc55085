import pytest

from provider_agent.coordinator.agents.decaying_counts import MAX_KEYS, DecayingCounts
from tests.kit.fake_clock import FakeClock

DECAY_S = 600.0


def test_an_event_counts_less_the_older_it_is() -> None:
    clock = FakeClock()
    counts = DecayingCounts[bytes](clock, DECAY_S)
    counts.add(b"a")
    clock.now += DECAY_S
    counts.add(b"a")

    assert counts.count(b"a") == pytest.approx(1 + 1 / 2.718281828)
    assert counts.count(b"b") == 0.0
    clock.now += DECAY_S * 1000
    assert counts.count(b"a") == 0.0


def test_keys_are_bounded() -> None:
    counts = DecayingCounts[bytes](FakeClock(), DECAY_S)
    for number in range(MAX_KEYS + 1):
        counts.add(number.to_bytes(2, "big"))

    assert counts.count(bytes(2)) == 0.0
    assert counts.count(b"\0\1") == 1.0
