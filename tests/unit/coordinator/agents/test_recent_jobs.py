import pytest

from provider_agent.coordinator.agents.recent_jobs import DECAY_S, MAX_AGENTS, RecentJobs
from tests.kit.fake_clock import FakeClock


def test_a_job_counts_less_the_older_it_is() -> None:
    clock = FakeClock()
    jobs = RecentJobs(clock)
    jobs.add(b"a")
    clock.now += DECAY_S
    jobs.add(b"a")

    assert jobs.count(b"a") == pytest.approx(1 + 1 / 2.718281828)
    assert jobs.count(b"b") == 0.0
    clock.now += DECAY_S * 1000
    assert jobs.count(b"a") == 0.0


def test_number_of_remembered_agents_is_bounded() -> None:
    jobs = RecentJobs(FakeClock())
    for number in range(MAX_AGENTS + 1):
        jobs.add(number.to_bytes(2, "big"))

    assert jobs.count(bytes(2)) == 0.0
    assert jobs.count(b"\0\1") == 1.0
