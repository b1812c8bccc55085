import pytest

from provider_agent.coordinator.agents.job_history import JobHistory
from provider_agent.coordinator.agents.model_report import NO_REPORT, ModelReport
from provider_agent.coordinator.agents.routing import choose_agent
from provider_agent.coordinator.cluster.messages import AgentEntry, ModelEntry
from provider_agent.coordinator.cluster.remote_agent import RemoteAgent, entry_of
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation
from tests.kit.cluster_pair import AGENT_KEY, ClusterPair, agent_entry, chat_job, model_entry

REPORTED = ModelEntry("tiny", ["chat"], 4, 1, 2, 0.5, True, False, 3.0)


def test_entry_of_a_remote_agent_is_its_entry() -> None:
    entry = AgentEntry(AGENT_KEY, 4, 1, True, True, False, [REPORTED])
    agent = ClusterPair().agent
    agent.update(entry)
    assert entry_of(agent, agent.offers, receipts=False, process=0) == entry


def test_jobs_sent_since_the_snapshot_count() -> None:
    pair = ClusterPair()
    pair.agent.submit(chat_job())
    assert (pair.agent.in_flight, pair.agent.in_flight_of("tiny")) == (1, 1)
    pair.agent.update(agent_entry(model_entry(in_flight=1), in_flight=1))
    assert (pair.agent.in_flight, pair.agent.in_flight_of("tiny")) == (1, 1)
    assert pair.agent.in_flight_of("other") == 0


def test_reports_are_those_of_the_snapshot() -> None:
    agent = ClusterPair().agent
    agent.update(AgentEntry(AGENT_KEY, 4, 1, False, False, False, [REPORTED]))
    assert agent.heartbeat.report("tiny") == ModelReport(2, 0.5, True, False, 3.0)
    assert agent.heartbeat.report("other") is NO_REPORT


def test_agent_of_an_unreachable_coordinator_has_no_room() -> None:
    reachable = True
    pair = ClusterPair()
    agent = RemoteAgent(b"H" * 16, agent_entry(), pair.edge.submit, lambda: reachable)
    history = JobHistory(lambda: 0.0)
    assert choose_agent([agent], "tiny", Operation.CHAT, history) is agent
    reachable = False
    assert choose_agent([agent], "tiny", Operation.CHAT, history) is ErrorCode.OUT_OF_CAPACITY


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        (agent_entry(in_flight=8), ErrorCode.OUT_OF_CAPACITY),
        (agent_entry(model_entry(in_flight=8)), ErrorCode.OUT_OF_CAPACITY),
        (AgentEntry(AGENT_KEY, 8, 0, False, True, False, [model_entry()]), "out_of_capacity"),
        (AgentEntry(AGENT_KEY, 8, 0, False, False, True, [model_entry()]), "out_of_capacity"),
        (AgentEntry(AGENT_KEY, 8, 0, True, False, False, [model_entry()]), ErrorCode.DRAINING),
        (agent_entry(model_entry("other")), ErrorCode.MODEL_NOT_LOADED),
        (agent_entry(ModelEntry("tiny", ["telepathy"], 8)), ErrorCode.FORMAT_NOT_SUPPORTED),
    ],
)
def test_routing_treats_a_remote_agent_as_a_local_one(entry: AgentEntry, code: ErrorCode) -> None:
    agent = ClusterPair().agent
    agent.update(entry)
    history = JobHistory(lambda: 0.0)
    assert choose_agent([agent], "tiny", Operation.CHAT, history) == code
