import pytest

from provider_agent.coordinator.connections.failed_attempts import (
    FREE_FAILURES,
    INTERVAL_S,
    MAX_ADDRESSES,
    FailedAttempts,
)
from tests.kit.fake_clock import FakeClock


def test_after_the_free_failures_one_attempt_per_interval_is_possible() -> None:
    clock = FakeClock()
    failures = FailedAttempts(clock)
    for _ in range(FREE_FAILURES):
        assert failures.wait_s("1.1.1.1") == 0
        failures.add("1.1.1.1")
    assert failures.wait_s("1.1.1.1") == INTERVAL_S
    assert failures.wait_s("2.2.2.2") == 0
    clock.now += INTERVAL_S
    assert failures.wait_s("1.1.1.1") == 0
    failures.add("1.1.1.1")
    assert failures.wait_s("1.1.1.1") == INTERVAL_S
    clock.now += FREE_FAILURES * INTERVAL_S
    failures.add("1.1.1.1")
    assert failures.wait_s("1.1.1.1") == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:1.1.1.1", "1.1.1.1", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "1.1.1.1", False),
    ],
)
def test_addresses_of_one_ipv6_network_count_as_one(one: str, other: str, same: bool) -> None:
    failures = FailedAttempts(FakeClock())
    for _ in range(FREE_FAILURES):
        failures.add(one)
    assert (failures.wait_s(other) > 0) is same


def test_number_of_remembered_addresses_is_bounded() -> None:
    failures = FailedAttempts(FakeClock())
    for number in range(MAX_ADDRESSES + 100):
        failures.add(f"an address {number} " + "x" * 8000)
    assert len(failures._until) == MAX_ADDRESSES
    assert max(map(len, failures._until)) < 100
