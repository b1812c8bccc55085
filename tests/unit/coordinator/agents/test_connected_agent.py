import base64
import logging
from collections.abc import Sequence

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provider_agent.coordinator.agents import connected_agent
from provider_agent.coordinator.agents.close_reason import CloseReason
from provider_agent.coordinator.agents.connected_agent import (
    CANCEL_REASON,
    RECONNECT_AFTER_MS,
    ConnectedAgent,
)
from provider_agent.coordinator.sessions.detached_session import DetachedSession
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.auth import signed_bytes
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.exceptions import MalformedMessage, ProtocolViolation
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    AgentLimits,
    Cancel,
    Capabilities,
    Challenge,
    Chunk,
    CoordinatorFrame,
    Drain,
    Draining,
    Heartbeat,
    Hello,
    Job,
    JobError,
    JobResult,
    JobStarted,
    LiveJob,
    Rejected,
    Welcome,
)
from provider_agent.protocol.limits import REPLACED, RESUME_MS
from provider_agent.protocol.session import CoordinatorSession, State
from tests.kit.scripted_agent import offer

NONCE = bytes(range(32))
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC_KEY = KEY.public_key().public_bytes_raw()
AUTHORITY = "localhost:1"
JOB_ID = b"j" * 16
JOB = Job(JOB_ID, "tiny", "openai", b"{}", 1000)
OTHER_JOB = msgspec.structs.replace(JOB, job_id=b"o" * 16)


class FakeRegistry:
    def __init__(self, rejected: Rejected | None = None) -> None:
        self.rejected = rejected
        self.joined: list[ConnectedAgent] = []
        self.lost: DetachedSession | None = None
        self.left: list[tuple[DetachedSession, bool]] = []

    def admit(self, hello: Hello) -> Rejected | None:
        return self.rejected

    def claim(self, hello: Hello) -> DetachedSession | None:
        return self.lost

    def join(self, agent: ConnectedAgent) -> None:
        self.joined.append(agent)

    def leave(self, agent: ConnectedAgent, session: DetachedSession, *, keep_session: bool) -> None:
        self.left.append((session, keep_session))


class Rig:
    """One agent without a connection."""

    def __init__(self, rejected: Rejected | None = None) -> None:
        self.registry = FakeRegistry(rejected)
        self.wakes = 0
        self.now = 100.0
        self.agent = ConnectedAgent(
            session=CoordinatorSession(nonce=NONCE, name="test", authorities=[AUTHORITY]),
            session_id=b"s" * 16,
            registry=self.registry,
            settings=CoordinatorSettings(),
            clock=lambda: self.now,
            wake=self._on_wake,
            close=self._on_close,
        )
        self.close_reasons: list[CloseReason] = []

    def _on_wake(self) -> None:
        self.wakes += 1

    def _on_close(self, close_reason: CloseReason) -> None:
        self.close_reasons.append(close_reason)

    def receive(self, *frames: AgentFrame) -> None:
        self.agent.receive_message(VERSION_1.encode(list(frames)))

    def sent(self) -> list[CoordinatorFrame]:
        return self.agent.next_batch()

    def greet(
        self,
        authority: str = AUTHORITY,
        session_id: bytes | None = None,
        live_jobs: Sequence[LiveJob] = (),
    ) -> None:
        signature = KEY.sign(signed_bytes(authority, NONCE))
        hello = Hello("1", PUBLIC_KEY, signature, session_id=session_id, live_jobs=list(live_jobs))
        self.receive(hello)


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.greet()
    rig.sent()
    return rig


def test_challenge_waits_from_the_start_and_welcome_follows_hello() -> None:
    rig = Rig()
    assert rig.sent() == [Challenge(NONCE, "test")]
    rig.greet()
    (welcome,) = rig.sent()
    assert isinstance(welcome, Welcome)
    assert (welcome.session_id, welcome.resume_ms) == (b"s" * 16, RESUME_MS)
    assert welcome.provider_id == base64.b64encode(PUBLIC_KEY).decode()
    assert rig.registry.joined == [rig.agent]


def test_signature_for_another_address_is_rejected() -> None:
    rig = Rig()
    rig.greet(authority="evil.example:443")
    assert rig.agent.state is State.CLOSED
    rejected = rig.sent()[-1]
    assert isinstance(rejected, Rejected)
    assert rejected.code == "bad_signature"
    assert rig.registry.joined == []


def test_roster_may_reject(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(rejected=Rejected("not_enrolled", "no"))
    with caplog.at_level(logging.WARNING, "provider_agent.coordinator"):
        rig.greet()
    assert [record.message for record in caplog.records] == ["agent rejected"]
    assert rig.agent.state is State.CLOSED
    assert rig.sent()[-1] == rig.registry.rejected


def test_frames_before_hello_break_the_protocol() -> None:
    with pytest.raises(ProtocolViolation):
        Rig().receive(Draining(1))


def test_malformed_message_raises_without_its_content(rig: Rig) -> None:
    with pytest.raises(MalformedMessage) as caught:
        rig.agent.receive_message(b"secret prompt")
    assert "secret" not in str(caught.value)


def test_what_the_agent_tells_is_kept(rig: Rig) -> None:
    heartbeat = Heartbeat(1, 0, 4, None, None, None, None)
    rig.receive(Capabilities(3, [offer()], AgentLimits(4)), heartbeat, Draining(1000))
    assert rig.agent.offers is not None
    assert rig.agent.offers.revision == 3
    assert (rig.agent.heartbeat, rig.agent.last_heartbeat) == (heartbeat, 100.0)
    assert rig.agent.draining


def test_unknown_frames_are_counted_and_logged_once(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "provider_agent.coordinator"):
        for _ in range(2):
            rig.agent.receive_message(msgspec.msgpack.encode([[63, "secret"], [62]]))
    assert rig.agent.unknown_frames == 4
    assert [record.message for record in caplog.records] == ["unknown frame type skipped"]
    assert "secret" not in caplog.text


def test_job_runs_from_submit_to_its_final_acknowledgement(rig: Rig) -> None:
    job = rig.agent.submit(JOB)
    assert rig.sent() == [JOB]
    assert rig.agent.in_flight == 1
    rig.receive(JobStarted(JOB_ID, 200, "text/plain", "b"), Chunk(JOB_ID, 0, b"abc"))
    assert rig.sent() == []
    assert job.take() == b"abc"
    rig.agent.consume(job, 3)
    assert job.unconsumed == 0
    result = JobResult(JOB_ID, 3, None, None, 1, 1)
    rig.receive(result)
    assert job.end is result or job.end == result
    assert rig.sent() == [Ack(JOB_ID, 3, final=True)]
    assert rig.agent.in_flight == 0


def test_acknowledgement_goes_out_only_for_what_was_passed_on(rig: Rig) -> None:
    job = rig.agent.submit(JOB)
    rig.sent()
    half = CoordinatorSettings().window_bytes // 2
    rig.receive(JobStarted(JOB_ID, 200, "", "b"), Chunk(JOB_ID, 0, bytes(half)))
    assert rig.sent() == []
    rig.agent.consume(job, half)
    assert rig.sent() == [Ack(JOB_ID, half)]


def test_abandoned_job_is_cancelled_once_and_what_it_held_is_given_back(rig: Rig) -> None:
    job = rig.agent.submit(JOB)
    rig.sent()
    half = CoordinatorSettings().window_bytes // 2
    rig.receive(JobStarted(JOB_ID, 200, "", "b"), Chunk(JOB_ID, 0, bytes(half)))
    rig.agent.abandon(job)
    rig.agent.abandon(job)
    assert rig.sent() == [Cancel(JOB_ID, CANCEL_REASON), Ack(JOB_ID, half)]
    rig.receive(Chunk(JOB_ID, half, bytes(half)))
    assert rig.sent() == [Ack(JOB_ID, 2 * half)]


def test_ended_job_is_not_cancelled(rig: Rig) -> None:
    job = rig.agent.submit(JOB)
    rig.sent()
    rig.receive(JobError(JOB_ID, 0, "internal", ""))
    rig.sent()
    rig.agent.abandon(job)
    assert rig.sent() == []


def test_lost_agent_leaves_once_with_its_jobs(rig: Rig) -> None:
    job = rig.agent.submit(JOB)
    rig.agent.leave(keep_session=True)
    rig.agent.leave()
    ((session, keep_session),) = rig.registry.left
    assert (session.jobs, keep_session) == ({JOB_ID: job}, True)
    assert job.owner is session


def test_what_comes_after_the_hand_over_is_not_taken(rig: Rig) -> None:
    job = rig.agent.submit(JOB)
    rig.sent()
    session = rig.agent.detach()
    rig.receive(JobStarted(JOB_ID, 200, "", "b"), Chunk(JOB_ID, 0, b"late"))
    rig.receive(JobError(JOB_ID, 4, "internal", ""))
    assert rig.sent() == [], "an end acknowledged here would be lost"
    assert (job.started, job.buffered_bytes, job.end) == (None, 0, None)
    assert session.jobs == {JOB_ID: job}
    rig.agent.leave()
    assert rig.registry.left == []


def test_agent_that_comes_back_gets_welcome_then_acknowledgements_then_lost_jobs() -> None:
    first = Rig()
    first.greet()
    first.receive(Capabilities(1, [offer()], AgentLimits(4)), Draining(1000))
    job, unseen = first.agent.submit(JOB), first.agent.submit(OTHER_JOB)
    first.receive(JobStarted(JOB_ID, 200, "", "b"), Chunk(JOB_ID, 0, b"abc"))
    first.agent.consume(job, 2)
    second = Rig()
    second.registry.lost = first.agent.detach()
    second.sent()
    second.now += 0.5
    second.greet(session_id=b"s" * 16, live_jobs=[LiveJob(JOB_ID, 0, 5)])
    welcome, ack, again = second.sent()
    assert isinstance(welcome, Welcome)
    assert (welcome.session_id, welcome.resumed) == (b"s" * 16, {JOB_ID: 3})
    assert ack == Ack(JOB_ID, 2)
    assert again == msgspec.structs.replace(OTHER_JOB, deadline_ms=500)
    assert (job.owner, unseen.owner) == (second.agent, second.agent)
    assert second.agent.resumed
    assert (second.agent.offers, second.agent.draining) == (first.agent.offers, True)
    second.receive(Chunk(JOB_ID, 2, b"cde"))
    assert job.take() == b"abcde"


def test_retired_agent_is_closed_when_its_last_job_ends(rig: Rig) -> None:
    rig.agent.submit(JOB)
    rig.agent.retire()
    assert rig.close_reasons == []
    assert "retired" in repr(rig.agent)
    rig.receive(JobError(JOB_ID, 0, "internal", ""))
    (close_reason,) = rig.close_reasons
    assert (close_reason.close_code, close_reason.flush) == (REPLACED, True)


def test_too_many_waiting_bytes_clog_the_agent_until_they_are_sent(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connected_agent, "MAX_QUEUED_JOB_BYTES", 1000)
    rig.agent.submit(msgspec.structs.replace(JOB, request=bytes(2000)))
    assert rig.agent.send_queue_full
    rig.sent()
    assert not rig.agent.send_queue_full


def test_drain_is_sent_to_an_open_agent_only(rig: Rig) -> None:
    fresh = Rig()
    fresh.agent.send_drain("stop")
    assert fresh.sent() == [Challenge(NONCE, "test")]
    rig.agent.send_drain("stop")
    assert rig.sent() == [Drain("stop", RECONNECT_AFTER_MS)]
    assert rig.wakes > 0
