from collections.abc import Callable

import pytest

from provider_agent.coordinator.agents.connected_agent import ConnectedAgent
from provider_agent.coordinator.agents.heartbeats import MAX_INTERVALS
from provider_agent.coordinator.cluster import entry_caches
from provider_agent.coordinator.cluster.entry_caches import DecodedEntries, EncodedEntries
from provider_agent.coordinator.cluster.messages import decode_entry, encode_entry
from provider_agent.coordinator.cluster.remote_agent import entry_of
from provider_agent.coordinator.sessions.offers import OfferTable
from provider_agent.protocol.frames import (
    AgentLimits,
    BackendLoad,
    Capabilities,
    Heartbeat,
    ModelLoad,
)
from provider_agent.protocol.state import State
from tests.kit.cluster_pair import agent_entry, chat_job, model_entry
from tests.kit.scripted_agent import offer
from tests.unit.coordinator.agents.test_fleet import FleetHarness


def heartbeat(cache_used: float) -> Heartbeat:
    model = ModelLoad("tiny", "loaded", 0, cache_used=cache_used)
    backends = [BackendLoad("vllm", True, 0, 4, models=[model])]
    return Heartbeat(0, 0, 4, None, None, None, None, backends)


def _nothing(_harness: FleetHarness, _agent: ConnectedAgent) -> None:
    pass


def _offer_more(_harness: FleetHarness, agent: ConnectedAgent) -> None:
    offers = [offer("tiny"), offer("large")]
    agent.offers = OfferTable(Capabilities(2, offers, AgentLimits(4)))


def _start_job(_harness: FleetHarness, agent: ConnectedAgent) -> None:
    agent._protocol.state = State.OPEN
    agent.submit(chat_job())


def _report(_harness: FleetHarness, agent: ConnectedAgent) -> None:
    agent.heartbeat.receive(heartbeat(0.5))


def _age(harness: FleetHarness, _agent: ConnectedAgent) -> None:
    harness.now += (MAX_INTERVALS + 1) * harness.settings.heartbeat_ms / 1000


def _drain(_harness: FleetHarness, agent: ConnectedAgent) -> None:
    agent.draining = True


def _lose(_harness: FleetHarness, agent: ConnectedAgent) -> None:
    agent.set_overdue(True)


@pytest.mark.parametrize(
    "change", [_nothing, _offer_more, _start_job, _report, _age, _drain, _lose]
)
def test_encoded_entry_is_that_of_the_agent_after_any_change(
    change: Callable[[FleetHarness, ConnectedAgent], None],
) -> None:
    harness = FleetHarness()
    agent = harness.agent(b"a" * 32)
    agent.heartbeat.receive(heartbeat(0.25))
    entries = EncodedEntries()
    (before,) = entries.encode([agent])
    change(harness, agent)
    (after,) = entries.encode([agent])
    assert agent.offers is not None
    assert decode_entry(after) == entry_of(agent, agent.offers, receipts=False, process=0)
    assert (after is before) is (change is _nothing)


def test_agents_without_offers_have_no_entry() -> None:
    agent = FleetHarness().agent(b"a" * 32)
    agent.offers = None
    assert list(EncodedEntries().encode([agent])) == []


def test_entries_of_agents_that_left_are_dropped() -> None:
    entries = EncodedEntries()
    list(entries.encode([FleetHarness().agent(b"a" * 32)]))
    list(entries.encode([]))
    assert repr(entries) == "<EncodedEntries 0>"


def test_entry_that_is_encoded_as_before_is_the_same_object() -> None:
    one, two = encode_entry(agent_entry()), encode_entry(agent_entry(model_entry(in_flight=1)))
    entries = DecodedEntries()
    entries.start()
    first = entries.decode(one)
    entries.complete()
    entries.start()
    assert entries.decode(one) is first
    entries.decode(two)
    entries.complete()
    entries.start()
    entries.complete()
    entries.start()
    assert entries.decode(one) == first
    assert entries.decode(one) is not first


def test_number_of_kept_entries_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry_caches, "MAX_ENTRIES", 1)
    entries = DecodedEntries()
    for number in range(3):
        entries.decode(encode_entry(agent_entry(in_flight=number)))
    assert repr(entries) == "<DecodedEntries older=0 newer=1>"
