import msgspec

from provider_agent.coordinator.access import SecretSet
from provider_agent.coordinator.agents.close_reason import REPLACED_BY_NEWER, CloseReason
from provider_agent.coordinator.agents.connected_agent import ConnectedAgent
from provider_agent.coordinator.agents.fleet import MODEL_GRACE_S, Fleet
from provider_agent.coordinator.sessions.offers import OfferTable
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation, WireFormat
from provider_agent.protocol.frames import AgentLimits, Capabilities, Heartbeat, Hello
from provider_agent.protocol.session import CoordinatorSession
from tests.kit.scripted_agent import offer

HELLO = Hello("1", bytes(32), bytes(64))


def hello(key: bytes) -> Hello:
    return msgspec.structs.replace(HELLO, public_key=key)


class Rig:
    def __init__(self, settings: CoordinatorSettings | None = None) -> None:
        self.settings = settings or CoordinatorSettings()
        self.now = 10.0
        self.fleet = Fleet(self.settings, lambda: self.now)
        self.close_reasons: list[tuple[bytes, CloseReason]] = []

    def agent(self, key: bytes, model_id: str = "tiny") -> ConnectedAgent:
        agent = ConnectedAgent(
            session=CoordinatorSession(nonce=bytes(32), name="", authorities=[]),
            session_id=bytes(16),
            registry=self.fleet,
            settings=self.settings,
            clock=lambda: self.now,
            wake=lambda: None,
            close=lambda close_reason: self.close_reasons.append((key, close_reason)),
        )
        agent.public_key = key
        agent.offers = OfferTable(Capabilities(1, [offer(model_id)], AgentLimits(4)))
        return agent


def test_newer_connection_of_a_key_closes_the_older() -> None:
    rig = Rig()
    older, newer = rig.agent(b"a"), rig.agent(b"a")
    rig.fleet.join(older)
    rig.fleet.join(newer)
    ((_, close_reason),) = rig.close_reasons
    assert close_reason == REPLACED_BY_NEWER
    older.leave()
    assert rig.fleet.pick("tiny", Operation.CHAT) is newer
    newer.leave()
    newer.leave()
    assert len(rig.fleet) == 0


def test_agent_without_key_or_code_is_not_enrolled() -> None:
    rig = Rig(CoordinatorSettings(enrollment_codes=SecretSet(["code"])))
    rejected = rig.fleet.admit(HELLO)
    assert rejected is not None
    assert (rejected.code, rejected.retry_after_ms) == ("not_enrolled", None)


def test_full_fleet_takes_only_keys_it_has_already() -> None:
    rig = Rig(CoordinatorSettings(max_agents=1))
    assert rig.fleet.admit(HELLO) is None
    rig.fleet.join(rig.agent(b"a"))
    rejected = rig.fleet.admit(hello(b"b"))
    assert rejected is not None
    assert rejected.code == "too_many_connections"
    assert rejected.retry_after_ms
    assert rig.fleet.admit(hello(b"a")) is None


def test_tried_agents_are_not_picked_again() -> None:
    rig = Rig()
    one, two = rig.agent(b"a"), rig.agent(b"b")
    rig.fleet.join(two)
    rig.fleet.join(one)
    assert rig.fleet.pick("tiny", Operation.CHAT) is one
    assert rig.fleet.pick("tiny", Operation.CHAT, [b"a"]) is two
    assert rig.fleet.pick("tiny", Operation.CHAT, [b"a", b"b"]) is ErrorCode.MODEL_NOT_LOADED


def test_a_model_that_was_served_just_now_is_expected_back() -> None:
    # Clients were told 404 while the only server restarted, which no client tries again.
    rig = Rig()
    agent = rig.agent(b"a")
    rig.fleet.join(agent)
    rig.now += MODEL_GRACE_S
    assert rig.fleet.pick("tiny", Operation.CHAT) is agent
    agent.leave()
    assert rig.fleet.pick("tiny", Operation.CHAT) is ErrorCode.OUT_OF_CAPACITY
    assert rig.fleet.pick("never seen", Operation.CHAT) is ErrorCode.MODEL_NOT_LOADED
    rig.now += MODEL_GRACE_S
    assert rig.fleet.pick("tiny", Operation.CHAT) is ErrorCode.MODEL_NOT_LOADED


def test_a_coordinator_that_has_just_started_expects_every_model_until_an_agent_comes() -> None:
    rig = Rig()
    assert rig.fleet.pick("tiny", Operation.CHAT) is ErrorCode.OUT_OF_CAPACITY
    rig.fleet.join(rig.agent(b"a"))
    assert rig.fleet.pick("other", Operation.CHAT) is ErrorCode.MODEL_NOT_LOADED


def test_models_are_those_of_all_agents_sorted() -> None:
    rig = Rig()
    for key, model_id in ((b"a", "z"), (b"b", "b"), (b"c", "z")):
        rig.fleet.join(rig.agent(key, model_id))
    assert rig.fleet.models(WireFormat.OPENAI) == ["b", "z"]


def test_draining_fleet_picks_and_admits_nobody() -> None:
    rig = Rig()
    agent = rig.agent(b"a")
    rig.fleet.join(agent)
    rig.fleet.start_draining("stop")
    assert rig.fleet.pick("tiny", Operation.CHAT) is ErrorCode.DRAINING
    assert rig.fleet.admit(HELLO) is not None


def test_snapshot_tells_how_each_agent_stands() -> None:
    rig = Rig()
    agent = rig.agent(b"a")
    agent.heartbeat, agent.last_heartbeat = Heartbeat(1, 0, 4, None, None, None, None), 7.0
    rig.fleet.join(agent)
    silent = rig.agent(b"b")
    silent.offers = None
    rig.fleet.join(silent)
    first, second = rig.fleet.snapshot()
    assert first.public_key == "YQ=="
    assert first.models == {"tiny": ("chat", "messages")}
    assert (first.capacity, first.in_flight, first.heartbeat_age_s) == (4, 0, 3.0)
    assert (second.models, second.capacity, second.heartbeat_age_s) == ({}, 0, None)
