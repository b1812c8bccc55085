import msgspec
import pytest

from provider_agent.coordinator.access import SecretSet
from provider_agent.coordinator.agents import missing_models
from provider_agent.coordinator.agents.close_reason import REPLACED_BY_NEWER, CloseReason
from provider_agent.coordinator.agents.connected_agent import ConnectedAgent
from provider_agent.coordinator.agents.fleet import Fleet
from provider_agent.coordinator.agents.missing_models import MODEL_GRACE_S, START_GRACE_S
from provider_agent.coordinator.reason import Reason
from provider_agent.coordinator.sessions.offers import OfferTable
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation, WireFormat
from provider_agent.protocol.frames import AgentLimits, Capabilities, Heartbeat, Hello
from tests.kit.scripted_agent import offer

HELLO = Hello("1", bytes(32), bytes(64))


def hello(key: bytes) -> Hello:
    return msgspec.structs.replace(HELLO, public_key=key)


class FleetHarness:
    """A `Fleet` with a clock that the test sets, and agents without a WebSocket."""

    def __init__(self, settings: CoordinatorSettings | None = None) -> None:
        self.settings = settings or CoordinatorSettings()
        self.now = 10.0
        self.fleet = Fleet(self.settings, lambda: self.now)
        self.close_reasons: list[tuple[bytes, CloseReason]] = []

    def agent(self, key: bytes, model_id: str = "tiny") -> ConnectedAgent:
        agent = ConnectedAgent(
            protocol=CoordinatorProtocol(nonce=bytes(32), name="", authorities=[]),
            session_id=bytes(16),
            registry=self.fleet,
            settings=self.settings,
            clock=lambda: self.now,
            wake=lambda: None,
            close=lambda close_reason: self.close_reasons.append((key, close_reason)),
            check_alive=lambda report: report(True),
            remote="192.0.2.7",
        )
        agent.public_key = key
        agent.offers = OfferTable(Capabilities(1, [offer(model_id)], AgentLimits(4)))
        return agent


def test_newer_connection_of_a_key_closes_an_idle_older_one() -> None:
    harness = FleetHarness()
    older, newer = harness.agent(b"a"), harness.agent(b"a")
    harness.fleet.join(older)
    harness.fleet.join(newer)
    ((_, close_reason),) = harness.close_reasons
    assert close_reason == REPLACED_BY_NEWER
    older.leave()
    assert harness.fleet.pick("tiny", Operation.CHAT) is newer
    newer.leave()
    newer.leave()
    assert len(harness.fleet) == 0


def test_agent_with_unknown_key_and_no_code_is_rejected() -> None:
    harness = FleetHarness(CoordinatorSettings(enrollment_codes=SecretSet(["code"])))
    rejected = harness.fleet.admit(HELLO, "127.0.0.1")
    assert rejected is not None
    assert (rejected.code, rejected.retry_after_ms) == ("not_enrolled", None)


def test_full_fleet_rejects_a_new_key_and_admits_a_connected_one() -> None:
    harness = FleetHarness(CoordinatorSettings(max_agents=1))
    assert harness.fleet.admit(HELLO, "127.0.0.1") is None
    harness.fleet.join(harness.agent(b"a"))
    rejected = harness.fleet.admit(hello(b"b"), "127.0.0.1")
    assert rejected is not None
    assert rejected.code == "too_many_connections"
    assert rejected.retry_after_ms
    assert harness.fleet.admit(hello(b"a"), "127.0.0.1") is None


def test_tried_agents_are_not_picked_again() -> None:
    harness = FleetHarness()
    one, two = harness.agent(b"a"), harness.agent(b"b")
    harness.fleet.join(two)
    harness.fleet.join(one)
    assert harness.fleet.pick("tiny", Operation.CHAT) is one
    assert harness.fleet.pick("tiny", Operation.CHAT, [b"a"]) is two
    assert harness.fleet.pick("tiny", Operation.CHAT, [b"a", b"b"]) is ErrorCode.MODEL_NOT_LOADED


def test_missing_model_is_out_of_capacity_within_the_grace_after_its_last_job() -> None:
    # Regression: clients received 404, which they do not retry, while the only server restarted.
    harness = FleetHarness()
    agent = harness.agent(b"a")
    harness.fleet.join(agent)
    harness.now += MODEL_GRACE_S
    assert harness.fleet.pick("tiny", Operation.CHAT) is agent
    agent.leave()
    assert harness.fleet.pick("tiny", Operation.CHAT) is ErrorCode.OUT_OF_CAPACITY
    assert harness.fleet.pick("never seen", Operation.CHAT) is ErrorCode.MODEL_NOT_LOADED
    harness.now += MODEL_GRACE_S
    assert harness.fleet.pick("tiny", Operation.CHAT) is ErrorCode.MODEL_NOT_LOADED


def test_only_the_most_recently_used_models_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missing_models, "MAX_REMEMBERED_MODELS", 1)
    harness = FleetHarness()
    harness.now += MODEL_GRACE_S
    for key, model_id in ((b"a", "older"), (b"b", "newer")):
        agent = harness.agent(key, model_id)
        harness.fleet.join(agent)
        assert harness.fleet.pick(model_id, Operation.CHAT) is agent
        agent.leave()
    harness.fleet.join(harness.agent(b"c", "other"))
    assert harness.fleet.pick("newer", Operation.CHAT) is ErrorCode.OUT_OF_CAPACITY
    assert harness.fleet.pick("older", Operation.CHAT) is ErrorCode.MODEL_NOT_LOADED


def test_request_waits_for_the_first_agent_only_soon_after_the_start() -> None:
    harness = FleetHarness()
    assert harness.fleet.pick("tiny", Operation.CHAT) is ErrorCode.OUT_OF_CAPACITY
    harness.now += START_GRACE_S
    assert harness.fleet.pick("tiny", Operation.CHAT) is ErrorCode.MODEL_NOT_LOADED
    assert (
        harness.fleet.why_no_agent("tiny", Operation.CHAT, ErrorCode.MODEL_NOT_LOADED)
        is Reason.NO_AGENT
    )


def test_request_waits_for_the_offers_of_a_connected_agent() -> None:
    harness = FleetHarness()
    agent = harness.agent(b"a")
    offers, agent.offers = agent.offers, None
    harness.fleet.join(agent)
    assert harness.fleet.pick("tiny", Operation.CHAT) is ErrorCode.OUT_OF_CAPACITY
    agent.offers = offers
    harness.fleet.offers_changed(b"a", ["tiny"])
    assert harness.fleet.pick("tiny", Operation.CHAT) is agent
    assert harness.fleet.pick("other", Operation.CHAT) is ErrorCode.MODEL_NOT_LOADED


def test_other_model_is_not_offered_and_the_offered_ones_are_named() -> None:
    harness = FleetHarness()
    harness.fleet.join(harness.agent(b"a"))
    assert harness.fleet.pick("other", Operation.CHAT) is ErrorCode.MODEL_NOT_LOADED
    assert (
        harness.fleet.why_no_agent("other", Operation.CHAT, ErrorCode.MODEL_NOT_LOADED)
        is Reason.NOT_OFFERED
    )
    assert harness.fleet.offers.why_not_offered("other", WireFormat.OPENAI) == "; offered: `tiny`"


def test_models_of_all_agents_are_sorted() -> None:
    harness = FleetHarness()
    for key, model_id in ((b"a", "z"), (b"b", "b"), (b"c", "z")):
        harness.fleet.join(harness.agent(key, model_id))
    assert harness.fleet.offers.models(WireFormat.OPENAI) == ["b", "z"]


def test_draining_fleet_picks_no_agent_and_rejects_new_ones() -> None:
    harness = FleetHarness()
    agent = harness.agent(b"a")
    harness.fleet.join(agent)
    harness.fleet.start_draining("stop")
    assert harness.fleet.pick("tiny", Operation.CHAT) is ErrorCode.DRAINING
    assert harness.fleet.admit(HELLO, "127.0.0.1") is not None


def test_idle_agents_take_turns() -> None:
    # Regression: the agent with the smallest key received every job of an idle fleet.
    harness = FleetHarness()
    agents = [harness.agent(key) for key in (b"a", b"b", b"c")]
    for agent in agents:
        harness.fleet.join(agent)

    picked = [harness.fleet.pick("tiny", Operation.CHAT) for _ in range(6)]

    assert picked == agents * 2


def test_snapshot_contains_the_state_of_each_agent() -> None:
    harness = FleetHarness()
    agent = harness.agent(b"a")
    agent.heartbeat.receive(Heartbeat(1, 0, 4, None, None, None, None))
    harness.now += 3.0
    harness.fleet.join(agent)
    silent = harness.agent(b"b")
    silent.offers = None
    harness.fleet.join(silent)
    first, second = harness.fleet.snapshot()
    assert first.public_key == "YQ=="
    assert first.models == {"tiny": ("chat", "messages")}
    assert (first.capacity, first.in_flight, first.heartbeat_age_s) == (4, 0, 3.0)
    assert (second.models, second.capacity, second.heartbeat_age_s) == ({}, 0, None)
