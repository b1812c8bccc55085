import pytest

from provider_agent.coordinator.cluster import view as view_module
from provider_agent.coordinator.cluster.messages import AgentEntry, Snapshot
from provider_agent.coordinator.cluster.remote_agent import RemoteAgent
from provider_agent.coordinator.cluster.view import ClusterView, ViewChange
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.protocol.job import Job
from tests.kit.cluster_pair import agent_entry, model_entry

OWN, ONE, TWO = b"0" * 16, b"1" * 16, b"2" * 16
INTERVAL_S = 2.0
A, B = b"a" * 32, b"b" * 32


def _unused(_agent: RemoteAgent, _job: Job) -> RunningJob:
    raise AssertionError


class ViewHarness:
    def __init__(self) -> None:
        self.now = 50.0
        self.view = ClusterView(OWN, self._agent, INTERVAL_S, lambda: self.now)
        self.revision = 0

    def _agent(self, holder: bytes, entry: AgentEntry) -> RemoteAgent:
        return RemoteAgent(holder, entry, _unused, lambda: True)

    def receive(
        self, sender: bytes, *agents: AgentEntry, part: int = 0, parts: int = 1
    ) -> ViewChange | None:
        if part == 0:
            self.revision += 1
        return self.view.receive(Snapshot(sender, self.revision, part, parts, False, list(agents)))

    def found(self) -> list[tuple[bytes, bytes]]:
        return sorted((agent.public_key, agent.holder) for agent in self.view.agents())


def test_snapshot_replaces_the_agents_of_its_sender_only() -> None:
    harness = ViewHarness()
    harness.receive(ONE, agent_entry(key=A))
    harness.receive(TWO, agent_entry(key=B))
    assert harness.found() == [(A, ONE), (B, TWO)]
    harness.receive(ONE)
    assert harness.found() == [(B, TWO)]
    assert list(harness.view) == [ONE, TWO]


def test_own_snapshots_are_ignored() -> None:
    harness = ViewHarness()
    assert harness.receive(OWN, agent_entry(key=A)) is None
    assert len(harness.view) == 0


def test_coordinator_is_dropped_after_three_silent_intervals() -> None:
    harness = ViewHarness()
    harness.receive(ONE, agent_entry(key=A))
    harness.now += 3 * INTERVAL_S
    assert harness.view.expire() == []
    harness.now += 0.1
    assert harness.view.expire() == [ONE]
    assert harness.found() == []
    assert harness.view.expire() == []


def test_repeated_snapshot_keeps_a_coordinator() -> None:
    harness = ViewHarness()
    harness.receive(ONE, agent_entry(key=A))
    harness.now += 3 * INTERVAL_S
    harness.receive(ONE, agent_entry(key=A))
    harness.now += 3 * INTERVAL_S
    assert harness.view.expire() == []


def test_silence_counts_from_the_end_of_an_interruption() -> None:
    harness = ViewHarness()
    harness.receive(ONE, agent_entry(key=A))
    harness.now += 100 * INTERVAL_S
    harness.view.restart()
    assert harness.view.expire() == []


def test_coordinator_that_leaves_is_dropped_at_once() -> None:
    harness = ViewHarness()
    harness.receive(ONE, agent_entry(key=A))
    leaving = Snapshot(ONE, 9, 0, 1, True, [])
    assert harness.view.receive(leaving) == ViewChange({}, left=True)
    assert harness.found() == []
    assert harness.view.receive(leaving) is None


def test_agent_of_two_coordinators_is_at_the_last_that_added_it() -> None:
    harness = ViewHarness()
    harness.receive(ONE, agent_entry(key=A))
    harness.receive(TWO, agent_entry(key=A))
    harness.receive(ONE, agent_entry(key=A))
    assert harness.found() == [(A, TWO)]
    harness.receive(TWO)
    assert harness.found() == [(A, ONE)]


def test_parts_count_when_the_last_one_has_arrived() -> None:
    harness = ViewHarness()
    assert harness.receive(ONE, agent_entry(key=A), part=0, parts=2) is None
    assert harness.found() == []
    change = harness.receive(ONE, agent_entry(key=B), part=1, parts=2)
    assert change == ViewChange({A: ["tiny"], B: ["tiny"]}, joined={A: 0, B: 0})
    assert harness.found() == [(A, ONE), (B, ONE)]


def test_snapshot_with_a_lost_part_does_not_replace_the_older_one() -> None:
    harness = ViewHarness()
    harness.receive(ONE, agent_entry(key=A))
    harness.receive(ONE, part=0, parts=3)
    harness.receive(ONE, part=2, parts=3)
    assert harness.found() == [(A, ONE)]
    harness.receive(ONE, agent_entry(key=B))
    assert harness.found() == [(B, ONE)]


def test_older_revision_is_ignored() -> None:
    harness = ViewHarness()
    harness.receive(ONE, agent_entry(key=A))
    assert harness.view.receive(Snapshot(ONE, harness.revision, 0, 1, False, [])) is None
    assert harness.found() == [(A, ONE)]


def test_change_names_the_models_with_new_offers() -> None:
    harness = ViewHarness()
    assert harness.receive(ONE, agent_entry(key=A)) == ViewChange({A: ["tiny"]}, joined={A: 0})
    assert harness.receive(ONE, agent_entry(key=A, in_flight=3)) == ViewChange({})
    two_models = agent_entry(model_entry("tiny"), model_entry("large"), key=A)
    assert harness.receive(ONE, two_models) == ViewChange({A: ["large"]})


def test_number_of_coordinators_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_module, "MAX_COORDINATORS", 1)
    harness = ViewHarness()
    harness.receive(ONE, agent_entry(key=A))
    assert harness.receive(TWO, agent_entry(key=B)) is None
    assert harness.found() == [(A, ONE)]


def test_number_of_agents_of_a_coordinator_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_module, "MAX_AGENTS", 1)
    harness = ViewHarness()
    harness.receive(ONE, agent_entry(key=A), part=0, parts=2)
    harness.receive(ONE, agent_entry(key=B), part=1, parts=2)
    assert harness.found() == [(A, ONE)]
