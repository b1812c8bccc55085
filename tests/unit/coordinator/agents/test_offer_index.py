"""An indexed fleet chooses the same agents as a plain comparison of all agents."""

import math
from collections.abc import Callable, Iterable
from statistics import median_high, median_low

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from provider_agent.coordinator.agents.connected_agent import ConnectedAgent
from provider_agent.coordinator.agents.fleet import Fleet
from provider_agent.coordinator.agents.job_history import JobHistory
from provider_agent.coordinator.agents.offer_index import OfferIndex
from provider_agent.coordinator.agents.routable_agent import NoRemoteAgents, RoutableAgent
from provider_agent.coordinator.agents.routing import Candidate
from provider_agent.coordinator.cluster.messages import AgentEntry, ModelEntry, Snapshot
from provider_agent.coordinator.cluster.remote_agent import RemoteAgent
from provider_agent.coordinator.cluster.view import ClusterView
from provider_agent.coordinator.sessions.offers import OfferTable
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation
from provider_agent.protocol.frames import (
    AgentLimits,
    Capabilities,
    JobEnd,
    JobError,
    JobResult,
)
from provider_agent.protocol.frames import Usage as JobUsage
from provider_agent.protocol.job import Job
from tests.kit.scripted_agent import offer
from tests.unit.coordinator.agents.test_fleet import FleetHarness

MODELS = ("one", "two", "three")
KEYS = tuple(bytes([number]) * 32 for number in range(4))
REASONS = [
    ErrorCode.MODEL_NOT_LOADED,
    ErrorCode.FORMAT_NOT_SUPPORTED,
    ErrorCode.DRAINING,
    ErrorCode.OUT_OF_CAPACITY,
]


def plain_choice(
    agents: Iterable[Candidate], model_id: str, operation: Operation, history: JobHistory
) -> bytes | ErrorCode:
    """The rules of ADR 11, written without regard to speed; returns a public key."""
    reasons, eligible = [ErrorCode.MODEL_NOT_LOADED], []
    for agent in agents:
        if agent.offers is None or model_id not in agent.offers.models:
            continue
        seen = history.seen(agent.public_key, model_id)
        has_room = (
            agent.in_flight < agent.offers.capacity
            and agent.in_flight_of(model_id) < agent.offers.slots[model_id]
        )
        if operation not in agent.offers.models[model_id]:
            reasons.append(ErrorCode.FORMAT_NOT_SUPPORTED)
        elif agent.draining:
            reasons.append(ErrorCode.DRAINING)
        elif not has_room or agent.send_queue_full or agent.overdue or seen.refuses:
            reasons.append(ErrorCode.OUT_OF_CAPACITY)
        else:
            eligible.append((agent, agent.offers, seen, agent.heartbeat.report(model_id)))
    if not eligible:
        return max(reasons, key=REASONS.index)
    limit = 4 * median_low(offers.slots[model_id] for _, offers, _, _ in eligible)
    loads, times = {}, {}
    for agent, offers, seen, report in eligible:
        slots = min(offers.slots[model_id], limit)
        capacity = offers.capacity * slots / offers.slots[model_id]
        shares = (
            agent.in_flight_of(model_id) / slots,
            (agent.in_flight + report.other_requests) / capacity,
            report.cache_used,
        )
        penalty = 2.0 if report.is_down else 1.0 if report.is_cold else 0.0
        load = min(1.0, *[max(shares)]) + min(1.0, seen.failures / 4) + penalty
        loads[agent.public_key] = load
        times[agent.public_key] = seen.job_s if seen.job_s is not None else report.job_s
    competitors = [key for key, load in loads.items() if load < min(loads.values()) + 0.25]
    known = [seconds for key in competitors if (seconds := times[key]) is not None]
    typical = median_high(known) if known else math.nan

    def rank(key: bytes) -> tuple[float, float, bytes]:
        seconds = times[key]
        speed = 0.5 if seconds is None else 2.0 if not seconds else typical / seconds
        return (history.recent_jobs(key) + 1) / min(2.0, max(0.5, speed)), loads[key], key

    return min(competitors, key=rank)


rarely = st.sampled_from([False] * 7 + [True])
model_entries = st.builds(
    ModelEntry,
    st.sampled_from(MODELS),
    st.sampled_from([["chat"], ["chat", "embeddings"], ["chat"], ["telepathy"], []]),
    st.sampled_from([2, 4, 64]),
    st.sampled_from([0, 0, 0, 1, 3]),
    st.sampled_from([0, 0, 0, 2]),
    st.sampled_from([0.0, 0.0, 0.3, 0.9]),
    rarely,
    rarely,
    st.sampled_from([None, 0.0, 1.0, 3.0, 8.0]),
)
agent_entries = st.builds(
    AgentEntry,
    st.sampled_from(KEYS),
    st.sampled_from([8, 64]),
    st.sampled_from([0, 0, 1, 4]),
    rarely,
    rarely,
    rarely,
    st.lists(model_entries, min_size=1, max_size=3, unique_by=lambda model: model.model_id),
)


class Receive(Struct, frozen=True):
    """A snapshot of a coordinator, or its end."""

    sender: int
    agents: list[AgentEntry] | None


class Connect(Struct, frozen=True):
    """A new connection of an agent here."""

    key: bytes
    models: list[str]


class Reoffer(Connect, frozen=True):
    """New offers of an agent that is connected here."""


class Disconnect(Struct, frozen=True):
    """The end of an agent's connection here."""

    key: bytes


class Request(Struct, frozen=True):
    """A request, which the chosen agent runs; `ends` is how."""

    model_id: str
    operation: Operation
    tried: list[bytes]
    ends: str


class Wait(Struct, frozen=True):
    """Time passes."""

    seconds: float


offered = st.lists(st.sampled_from(MODELS), max_size=2, unique=True)
unique_agents = st.lists(
    agent_entries, min_size=2, max_size=4, unique_by=lambda agent: agent.public_key
)
steps = st.one_of(
    st.builds(Receive, st.integers(0, 1), st.none() | unique_agents),
    st.builds(Connect, st.sampled_from(KEYS), offered),
    st.builds(Reoffer, st.sampled_from(KEYS), offered),
    st.builds(Disconnect, st.sampled_from(KEYS)),
    st.builds(
        Request,
        st.sampled_from(MODELS),
        st.sampled_from([Operation.CHAT, Operation.EMBEDDINGS]),
        st.lists(st.sampled_from(KEYS), max_size=1),
        st.sampled_from(["", "result", "refusal", "failure"]),
    ),
    st.builds(Wait, st.sampled_from([0.2, 30.0])),
)


class Remote(NoRemoteAgents):
    """The agents of a view, as a member of a cluster has them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.view = ClusterView(b"0" * 16, self._agent, 2.0, clock)

    def _agent(self, holder: bytes, entry: AgentEntry) -> RemoteAgent:
        return RemoteAgent(holder, entry, self._unused, lambda: True)

    @staticmethod
    def _unused(_agent: RemoteAgent, _job: Job) -> RunningJob:
        raise AssertionError

    def agents(self) -> list[RemoteAgent]:
        return self.view.agents()

    def offering(self, model_id: str) -> Iterable[RemoteAgent]:
        return self.view.offering(model_id)


class Comparison:
    """Applies steps to a fleet, and compares its choices with `plain_choice`."""

    def __init__(self) -> None:
        self.harness = FleetHarness()
        self.fleet: Fleet = self.harness.fleet
        self.remote = Remote(lambda: self.harness.now)
        self.fleet.offers.remote = self.remote
        self.history = JobHistory(lambda: self.harness.now)
        self.revision = 0

    def apply(self, step: object) -> None:
        match step:
            case Receive():
                self.revision += 1
                sender, leaving = bytes([step.sender]) * 16, step.agents is None
                snapshot = Snapshot(sender, self.revision, 0, 1, leaving, step.agents or [])
                change = self.remote.view.receive(snapshot)
                for key, models in ({} if change is None else change.offers).items():
                    self.fleet.remote_offers_changed(key, models)
                    self.history.forget_refusals(key, models)
            case Reoffer():
                for agent in self.fleet.accepting():
                    if agent.public_key == step.key:
                        agent.offers = _offers(step.models)
                        self.fleet.offers_changed(step.key, step.models)
                        self.history.forget_refusals(step.key, step.models)
            case Connect():
                agent = self.harness.agent(step.key)
                agent.offers = _offers(step.models)
                self.fleet.join(agent)
            case Disconnect():
                for agent in self.fleet.accepting():
                    if agent.public_key == step.key:
                        agent.leave()
            case Request():
                self.compare(step)
            case Wait():
                self.harness.now += step.seconds

    def compare(self, request: Request) -> None:
        local: list[RoutableAgent] = [*self.fleet.accepting()]
        connected = {agent.public_key for agent in local}
        remote = [one for one in self.remote.agents() if one.public_key not in connected]
        agents = [one for one in (*local, *remote) if one.public_key not in request.tried]
        model_id, operation = request.model_id, request.operation
        expected = plain_choice(agents, model_id, operation, self.history)
        chosen = self.fleet.pick(model_id, operation, request.tried)
        if isinstance(chosen, ErrorCode):
            if expected is ErrorCode.MODEL_NOT_LOADED and not request.tried:
                return  # the request may wait for an agent that was here
            assert chosen is expected
            return
        key = chosen.public_key
        assert key == expected
        self.history.job_sent(key)
        ends: dict[str, JobEnd] = {
            "result": JobResult(bytes(16), 1000, JobUsage(10, 300), "", 5, 1),
            "refusal": JobError(bytes(16), 0, "out_of_capacity", ""),
            "failure": JobError(bytes(16), 0, "internal", ""),
        }
        if (end := ends.get(request.ends)) is not None:
            self.fleet.job_ended(key, model_id, end, 3.0)
            self.history.job_ended(key, model_id, end, 3.0)


def _offers(models: list[str]) -> OfferTable:
    return OfferTable(Capabilities(1, [offer(model) for model in models], AgentLimits(4)))


@given(st.lists(steps, min_size=10, max_size=25))
def test_indexed_choice_equals_a_plain_comparison_of_all_agents(work: list[object]) -> None:
    comparison = Comparison()
    for step in work:
        comparison.apply(step)
        for model_id in MODELS:
            comparison.compare(Request(model_id, Operation.CHAT, [], ""))


def test_index_keeps_nothing_of_an_agent_that_left() -> None:
    index = OfferIndex[ConnectedAgent]()
    agent = FleetHarness().agent(KEYS[0])
    agent.offers = _offers(["one", "two"])
    index.update(KEYS[0], agent)
    assert list(index.offering("two")) == [agent]
    index.update(KEYS[0], None)
    assert repr(index) == "<OfferIndex models=0 agents=0>"
