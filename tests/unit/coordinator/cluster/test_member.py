"""One coordinator in a cluster: routing to remote agents, and what silence and interruptions do."""

import logging
from collections.abc import Callable

import pytest

from provider_agent.coordinator.agents.connected_agent import ConnectedAgent
from provider_agent.coordinator.agents.fleet import Fleet
from provider_agent.coordinator.agents.missing_models import MODEL_GRACE_S
from provider_agent.coordinator.agents.snapshots import PeerSnapshot
from provider_agent.coordinator.cluster import view
from provider_agent.coordinator.cluster.member import ClusterMember
from provider_agent.coordinator.cluster.messages import (
    UNKNOWN_JOB,
    Gone,
    MalformedPeerMessage,
    Renewal,
    RenewedJob,
    decode_batch,
    encode_batch,
    encode_snapshot,
)
from provider_agent.coordinator.cluster.remote_agent import RemoteAgent
from provider_agent.coordinator.cluster.takeover_messages import TakeoverRequest, encode_takeover
from provider_agent.coordinator.connections.limited_log import MAX_LINES
from provider_agent.coordinator.reason import Reason
from provider_agent.coordinator.sessions.detached_session import LostJob, new_session
from provider_agent.coordinator.sessions.offers import OfferTable
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation, WireFormat
from provider_agent.protocol.frames import AgentLimits, Capabilities, Hello, JobError, LiveJob
from tests.kit.cluster_pair import AGENT_KEY, chat_job
from tests.kit.scripted_agent import offer

INTERVAL_S = 2.0
SETTINGS = CoordinatorSettings()


class Member:
    """One member, with a clock that the test sets."""

    def __init__(self, own_id: bytes, clock: Callable[[], float]) -> None:
        self.fleet = Fleet(SETTINGS, clock)
        self.snapshots_due = 0
        self.asked: list[tuple[bytes, bytes, Callable[[bytes | None], None]]] = []
        self.member = ClusterMember(
            own_id,
            self.fleet,
            SETTINGS,
            interval_s=INTERVAL_S,
            clock=clock,
            wake=lambda: None,
            snapshot_changed=self._snapshot_changed,
            ask=self._ask,
        )
        self.member.set_connected(True)
        self._clock = clock

    def _ask(
        self, coordinator: bytes, message: bytes, answered: Callable[[bytes | None], None]
    ) -> None:
        self.asked.append((coordinator, message, answered))

    def _snapshot_changed(self) -> None:
        self.snapshots_due += 1

    def join(self, key: bytes = AGENT_KEY, instance_id: str = "") -> ConnectedAgent:
        agent = ConnectedAgent(
            protocol=CoordinatorProtocol(nonce=bytes(32), name="", authorities=[]),
            session_id=bytes(16),
            registry=self.fleet,
            settings=SETTINGS,
            clock=self._clock,
            wake=lambda: None,
            close=lambda _: None,
            check_alive=lambda report: report(True),
            remote="192.0.2.7",
        )
        agent.public_key, agent.instance_id = key, instance_id
        agent.offers = OfferTable(Capabilities(1, [offer("tiny")], AgentLimits(4)))
        self.fleet.join(agent)
        return agent

    def pick(self) -> object:
        return self.fleet.pick("tiny", Operation.CHAT)


class Members:
    """Two members: `one` has the agent, `two` receives its snapshots."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.one, self.two = (Member(bytes([n]) * 16, lambda: self.now) for n in (1, 2))
        self.local = self.one.join()
        self.send_snapshot()

    def send_snapshot(self, *, leaving: bool = False) -> None:
        for message in self.one.member.snapshot(leaving=leaving):
            self.two.member.receive_snapshot(message)

    def remote(self) -> RemoteAgent:
        chosen = self.two.pick()
        assert isinstance(chosen, RemoteAgent)
        return chosen


def test_remote_agent_receives_jobs_and_its_models_are_listed() -> None:
    members = Members()
    assert members.remote().holder == members.one.member.own_id
    assert members.two.fleet.offers.models(WireFormat.OPENAI) == ["tiny"]
    assert members.two.fleet.offers.why_not_ready() == ""
    members.remote().submit(chat_job())
    message = members.two.member.next_message()
    assert message is not None
    assert message[0] == members.one.member.own_id
    assert len(decode_batch(message[1]).frames) == 2
    assert members.two.member.next_message() is None


def test_agent_that_is_connected_here_is_not_used_through_another_coordinator() -> None:
    members = Members()
    local = members.two.join()
    assert members.two.pick() is local


def test_agent_that_drains_here_is_used_through_the_coordinator_of_its_successor() -> None:
    members = Members()
    local = members.two.join()
    local.draining = True
    assert isinstance(members.two.pick(), RemoteAgent)


def test_new_coordinator_receives_a_snapshot_soon() -> None:
    members = Members()
    due = members.two.snapshots_due
    assert due > 0
    members.send_snapshot()
    assert members.two.snapshots_due == due


def test_new_coordinator_that_asks_first_receives_a_snapshot_soon() -> None:
    members = Members()
    third = Member(b"3" * 16, lambda: members.now)
    request = TakeoverRequest(third.member.own_id, AGENT_KEY, bytes(16), [])
    members.two.member.answer_takeover(encode_takeover(request))
    due = members.two.snapshots_due
    for message in third.member.snapshot():
        members.two.member.receive_snapshot(message)
    assert members.two.snapshots_due == due + 1


def test_draining_coordinator_offers_no_agents_and_refuses_jobs() -> None:
    members = Members()
    assert members.one.fleet.accept(AGENT_KEY, "tiny", Operation.CHAT) is members.local
    members.one.fleet.start_draining("stop")
    refusal = members.one.fleet.accept(AGENT_KEY, "tiny", Operation.CHAT)
    assert refusal is ErrorCode.OUT_OF_CAPACITY  # the agent soon dials another coordinator
    members.send_snapshot()
    assert members.two.member.agents() == []


def test_job_for_an_agent_that_has_just_left_may_wait() -> None:
    # With `model_not_loaded` the request failed if the other agents were connecting again, too.
    members = Members()
    refusal = members.one.fleet.accept(b"x" * 32, "tiny", Operation.CHAT)
    assert refusal is ErrorCode.OUT_OF_CAPACITY


def test_requests_wait_for_remote_agents_while_disconnected() -> None:
    members = Members()
    members.two.member.set_connected(False)
    fleet = members.two.fleet
    assert members.two.pick() is ErrorCode.OUT_OF_CAPACITY
    assert fleet.availability.is_awaited("tiny")
    assert (
        fleet.why_no_agent("tiny", Operation.CHAT, ErrorCode.OUT_OF_CAPACITY)
        is Reason.PROVIDER_OFFLINE
    )
    assert fleet.offers.why_not_ready()
    members.two.member.set_connected(True)
    assert members.remote() in members.two.member.agents()


def test_jobs_of_a_silent_coordinator_wait_for_their_agents() -> None:
    members = Members()
    job = members.remote().submit(chat_job())
    members.now += 3 * INTERVAL_S + 0.1
    members.two.member.tick()
    assert (job.lost, job.end) == (True, None)
    assert members.two.member.agents() == []
    members.now += SETTINGS.resume_ms / 1000 + 1
    members.two.member.tick()
    assert isinstance(job.end, LostJob)


def test_requests_wait_for_the_agents_of_a_coordinator_that_has_left() -> None:
    # The agents dial another coordinator within seconds.
    members = Members()
    members.send_snapshot(leaving=True)
    assert members.two.pick() is ErrorCode.OUT_OF_CAPACITY
    assert members.two.fleet.availability.is_awaited("tiny")
    members.now += MODEL_GRACE_S + 1
    assert not members.two.fleet.availability.is_awaited("tiny")


def test_jobs_of_a_coordinator_that_leaves_wait_for_their_agents() -> None:
    members = Members()
    job = members.remote().submit(chat_job())
    members.send_snapshot(leaving=True)
    assert (job.lost, job.end) == (True, None)


@pytest.mark.parametrize("instance_id", ["", "started again"])
def test_job_that_its_agent_does_not_have_when_it_dials_the_edge_is_sent_again(
    instance_id: str,
) -> None:
    members = Members()
    job = members.remote().submit(chat_job())
    members.send_snapshot(leaving=True)
    members.two.join(instance_id=instance_id)
    assert isinstance(job.end, JobError)
    assert job.end.code == "out_of_capacity"


def test_agent_that_has_joined_without_offers_does_not_hide_its_remote_entry() -> None:
    members = Members()
    members.two.join().offers = None
    assert isinstance(members.two.pick(), RemoteAgent)


def test_unreachable_coordinator_receives_no_jobs_until_its_next_snapshot() -> None:
    members = Members()
    job = members.remote().submit(chat_job())
    members.two.member.set_unreachable(members.one.member.own_id)
    lost = [job.lost]
    assert members.two.pick() is ErrorCode.OUT_OF_CAPACITY
    members.send_snapshot()
    lost.append(job.lost)
    assert lost == [True, False]
    assert isinstance(members.two.pick(), RemoteAgent)


def test_jobs_of_a_silent_coordinator_that_returns_are_renewed() -> None:
    members = Members()
    job = members.remote().submit(chat_job())
    while members.two.member.next_message():
        pass
    members.now += 3 * INTERVAL_S + 0.1
    members.two.member.tick()
    assert members.two.member.next_message() is None
    members.send_snapshot()
    members.two.member.tick()
    assert not job.lost
    assert members.two.member.next_message() is not None


def test_jobs_survive_an_interruption_within_the_resume_time() -> None:
    members = Members()
    job = members.remote().submit(chat_job())
    members.two.member.set_connected(False)
    members.now += SETTINGS.resume_ms / 1000
    members.two.member.tick()
    assert job.end is None
    members.two.member.set_connected(True)
    members.two.member.tick()
    assert job.end is None


def test_jobs_end_after_an_interruption_longer_than_the_resume_time() -> None:
    members = Members()
    job = members.remote().submit(chat_job())
    members.two.member.set_connected(False)
    members.now += SETTINGS.resume_ms / 1000 + 1
    members.two.member.tick()
    assert isinstance(job.end, LostJob)
    assert members.two.member.agents() == []


def test_new_offer_ends_the_time_after_a_refusal() -> None:
    members = Members()
    refused = JobError(bytes(16), 0, "model_not_loaded", "", retryable=True, retry_after_ms=30_000)
    members.two.fleet.job_ended(AGENT_KEY, "tiny", refused, 0.0)
    assert members.two.pick() is ErrorCode.OUT_OF_CAPACITY
    members.local.offers = OfferTable(Capabilities(2, [offer("tiny")], AgentLimits(5)))
    members.send_snapshot()
    assert members.remote() in members.two.member.agents()


def test_frames_of_a_coordinator_without_a_snapshot_are_ignored() -> None:
    members = Members()
    members.remote().submit(chat_job())
    message = members.two.member.next_message()
    assert message is not None
    members.one.member.receive_batch(message[1])  # `one` has no snapshot of `two`
    assert members.one.member.next_message() is None


def test_malformed_messages_raise() -> None:
    member = Members().two.member
    with pytest.raises(MalformedPeerMessage):
        member.receive_batch(b"\xff")
    with pytest.raises(MalformedPeerMessage):
        member.receive_snapshot(b"\xff")


def test_one_coordinator_too_many_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The operator saw only that requests did not reach some of the agents.
    monkeypatch.setattr(view, "MAX_COORDINATORS", 1)
    members = Members()
    for message in encode_snapshot(b"3" * 16, 1, []):
        members.two.member.receive_snapshot(message)
    assert "coordinator ignored" in caplog.messages
    caplog.clear()
    for message in encode_snapshot(b"3" * 16, 2, [], leaving=True):
        members.two.member.receive_snapshot(message)
    members.send_snapshot()
    assert not caplog.messages


def test_coordinators_that_join_and_leave_repeatedly_do_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Two lines were logged for each id that someone with access to NATS invents.
    caplog.set_level(logging.INFO)
    members = Members()
    for number in range(1000):
        for leaving in (False, True):
            for message in encode_snapshot(number.to_bytes(16), 1, [], leaving=leaving):
                members.two.member.receive_snapshot(message)
    assert len(caplog.messages) == MAX_LINES


def test_coordinators_that_become_silent_do_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    members = Members()
    for number in range(view.MAX_COORDINATORS):
        for message in encode_snapshot(number.to_bytes(16), 1, []):
            members.two.member.receive_snapshot(message)
    members.now += 4 * INTERVAL_S
    members.two.member.tick()
    assert len(members.two.member.view) == 0
    assert len(caplog.messages) <= MAX_LINES


def test_other_coordinators_are_described_with_their_jobs() -> None:
    members = Members()
    one, two = members.one.member, members.two.member
    one.receive_snapshot(two.snapshot()[0])
    members.remote().submit(chat_job(1))
    message = two.next_message()
    assert message is not None
    offer_of_job, *_request = decode_batch(message[1]).frames
    one.receive_batch(encode_batch(two.own_id, [offer_of_job]))
    members.now += 1.5
    assert list(two.coordinators()) == [PeerSnapshot(one.own_id.hex(), 1, 1, 1.5, 1, 0)]
    assert list(one.coordinators()) == [PeerSnapshot(two.own_id.hex(), 0, 0, 1.5, 0, 1)]


def test_coordinator_that_leaves_meanwhile_is_not_described() -> None:
    members = Members()
    for message in encode_snapshot(b"3" * 16, 1, []):
        members.two.member.receive_snapshot(message)
    described = members.two.member.coordinators()
    assert next(described).coordinator == members.one.member.own_id.hex()
    for message in encode_snapshot(b"3" * 16, 2, [], leaving=True):
        members.two.member.receive_snapshot(message)
    assert list(described) == []


def test_renewal_that_arrives_during_a_takeover_does_not_end_the_job() -> None:
    # The edge expects the job at the new holder as soon as it has answered; the answer may arrive
    # after the renewal, or be lost.
    members = Members()
    new, edge = members.two.member, members.one.member
    job_id = bytes(16)
    live = LiveJob(job_id, 0, 10, 10)
    hello = Hello("1", AGENT_KEY, bytes(64), session_id=bytes(16), live_jobs=[live])
    assert new.take_over(hello, b"s" * 16, lambda _session: None)
    renewal = encode_batch(edge.own_id, [Renewal([RenewedJob(job_id, 10, 10, resend=True)])])

    new.receive_batch(renewal)
    assert new.next_message() is None

    ((_, _, answered),) = members.two.asked
    answered(None)
    members.now += 4 * INTERVAL_S
    new.holder.expire()
    new.receive_batch(renewal)
    message = new.next_message()
    assert message is not None
    assert decode_batch(message[1]).frames == [Gone(job_id, UNKNOWN_JOB)]


async def test_session_ends_when_its_agent_starts_another_one_elsewhere() -> None:
    # An agent that was killed and started again does not resume its session. Without this, clients
    # waited for the minute in which it could.
    members = Members()
    fleet, restarted = members.two.fleet, b"r" * 32
    fleet.keep(new_session(restarted, b"s" * 16, "first process"))
    fleet.keep(new_session(AGENT_KEY, b"t" * 16, "known at the other coordinator"))
    members.one.join(restarted, "second process")
    members.send_snapshot()
    assert [session.session_id for session in fleet.detached_sessions()] == [(b"t" * 16).hex()]
    fleet.close()


def test_job_of_a_lost_coordinator_ends_when_its_agent_starts_another_session() -> None:
    members = Members()
    running = members.remote().submit(chat_job())
    members.send_snapshot(leaving=True)
    assert running.end is None
    third = Member(b"3" * 16, lambda: members.now)
    third.join(instance_id="started again")
    for message in third.member.snapshot():
        members.two.member.receive_snapshot(message)
    assert isinstance(running.end, JobError)
