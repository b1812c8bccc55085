import base64
import logging
from collections.abc import Callable, Iterable, Sequence

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provider_agent.coordinator.agents import agent_jobs
from provider_agent.coordinator.agents.agent_jobs import CANCEL_REASON
from provider_agent.coordinator.agents.close_reason import CloseReason
from provider_agent.coordinator.agents.connected_agent import (
    RECONNECT_AFTER_MS,
    ConnectedAgent,
)
from provider_agent.coordinator.connections.limited_log import LimitedLog
from provider_agent.coordinator.sessions.detached_session import DetachedSession
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.event_log import EventLogger
from provider_agent.protocol.auth import signed_bytes
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
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
    JobEnd,
    JobError,
    JobResult,
    JobStarted,
    LiveJob,
    Notice,
    Rejected,
    RequestChunk,
    ResumedJob,
    RoutingStatus,
    Usage,
    Welcome,
)
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import (
    BATCH_BYTES,
    MAX_MESSAGE_TO_AGENT_BYTES,
    REPLACED,
    RESUME_MS,
)
from provider_agent.protocol.state import State
from tests.kit.scripted_agent import offer

NONCE = bytes(range(32))
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC_KEY = KEY.public_key().public_bytes_raw()
AUTHORITY = "localhost:1"
JOB_ID = b"j" * 16
JOB = Job(JOB_ID, "tiny", "openai", b"{}", 1000)
OTHER_JOB = msgspec.structs.replace(JOB, job_id=b"o" * 16)


class FakeRegistry:
    """Records `join` and `leave`. `admit` returns `rejected`; `claim` returns `detached`."""

    def __init__(self, rejected: Rejected | None = None) -> None:
        self.rejected = rejected
        self.joined: list[ConnectedAgent] = []
        self.detached: DetachedSession | None = None
        self.left: list[tuple[DetachedSession, bool]] = []
        self.ended: list[tuple[bytes, str, JobEnd, float]] = []
        self.capacity_changes = 0

    def admit(self, hello: Hello, address: str) -> Rejected | None:
        return self.rejected

    def log_of(self, public_key: bytes) -> LimitedLog:
        return LimitedLog(EventLogger("test"), lambda: 0.0)

    def key_holder(self, hello: Hello) -> ConnectedAgent | None:
        return None

    def claim(self, hello: Hello) -> DetachedSession | None:
        return self.detached

    def take_over(
        self, hello: Hello, session_id: bytes, done: Callable[[DetachedSession | None], None]
    ) -> bool:
        return False

    def keep(self, session: DetachedSession) -> None:
        raise AssertionError("no session was taken over")

    def join(self, agent: ConnectedAgent) -> None:
        self.joined.append(agent)

    def leave(self, agent: ConnectedAgent, session: DetachedSession, *, keep_session: bool) -> None:
        self.left.append((session, keep_session))

    def job_ended(self, public_key: bytes, model_id: str, end: JobEnd, duration_s: float) -> None:
        self.ended.append((public_key, model_id, end, duration_s))

    def offers_changed(self, public_key: bytes, model_ids: Iterable[str]) -> None:
        self.capacity_changes += 1

    def capacity_changed(self) -> None:
        self.capacity_changes += 1


class AgentHarness:
    """A `ConnectedAgent` without a WebSocket."""

    def __init__(self, rejected: Rejected | None = None) -> None:
        self.registry = FakeRegistry(rejected)
        self.wakes = 0
        self.now = 100.0
        self.agent = ConnectedAgent(
            protocol=CoordinatorProtocol(nonce=NONCE, name="test", authorities=[AUTHORITY]),
            session_id=b"s" * 16,
            registry=self.registry,
            settings=CoordinatorSettings(),
            clock=lambda: self.now,
            wake=self._on_wake,
            close=self._on_close,
            check_alive=lambda report: report(True),
            remote="192.0.2.7",
        )
        self.close_reasons: list[CloseReason] = []

    def _on_wake(self) -> None:
        self.wakes += 1

    def _on_close(self, close_reason: CloseReason) -> None:
        self.close_reasons.append(close_reason)

    def receive(self, *frames: AgentFrame) -> None:
        self.agent.receive_message(VERSION_1.encode(list(frames)))

    def take_frames(self) -> list[CoordinatorFrame]:
        """Remove and return the queued frames."""
        frames: list[CoordinatorFrame] = []
        for message in self.agent.next_messages(BATCH_BYTES):
            frames += VERSION_1.decode_from_coordinator(message, MAX_MESSAGE_TO_AGENT_BYTES).frames
        return frames

    def receive_hello(
        self,
        authority: str = AUTHORITY,
        session_id: bytes | None = None,
        live_jobs: Sequence[LiveJob] = (),
    ) -> None:
        """Receive a `Hello` that is signed for `authority`."""
        signature = KEY.sign(signed_bytes(authority, NONCE))
        hello = Hello("1", PUBLIC_KEY, signature, session_id=session_id, live_jobs=list(live_jobs))
        self.receive(hello)


@pytest.fixture
def harness() -> AgentHarness:
    """An admitted agent, without queued frames."""
    harness = AgentHarness()
    harness.receive_hello()
    harness.take_frames()
    return harness


def test_challenge_is_queued_at_once_and_welcome_after_hello() -> None:
    harness = AgentHarness()
    assert harness.take_frames() == [Challenge(NONCE, "test")]
    harness.receive_hello()
    (welcome,) = harness.take_frames()
    assert isinstance(welcome, Welcome)
    assert (welcome.session_id, welcome.resume_ms) == (b"s" * 16, RESUME_MS)
    assert welcome.provider_id == base64.b64encode(PUBLIC_KEY).decode()
    assert harness.registry.joined == [harness.agent]


def test_signature_for_another_address_is_rejected() -> None:
    harness = AgentHarness()
    harness.receive_hello(authority="evil.example:443")
    assert harness.agent.state is State.CLOSED
    rejected = harness.take_frames()[-1]
    assert isinstance(rejected, Rejected)
    assert rejected.code == "bad_signature"
    assert harness.registry.joined == []


def test_rejection_by_the_registry_is_sent_and_noted() -> None:
    harness = AgentHarness(rejected=Rejected("not_enrolled", "no"))
    harness.receive_hello()
    assert harness.agent.log is None
    assert harness.agent.rejection is not None
    assert harness.agent.rejection.code == "not_enrolled"
    assert harness.agent.state is State.CLOSED
    assert harness.take_frames()[-1] == harness.registry.rejected


def test_frame_before_hello_violates_the_protocol() -> None:
    with pytest.raises(ProtocolViolation):
        AgentHarness().receive(Draining(1))


def test_error_about_a_malformed_message_does_not_contain_its_bytes(harness: AgentHarness) -> None:
    with pytest.raises(MalformedMessage) as caught:
        harness.agent.receive_message(b"secret prompt")
    assert "secret" not in str(caught.value)


def test_capabilities_heartbeat_and_draining_are_stored(harness: AgentHarness) -> None:
    heartbeat = Heartbeat(1, 0, 4, None, None, None, None)
    harness.receive(Capabilities(3, [offer()], AgentLimits(4)), heartbeat, Draining(1000))
    assert harness.agent.offers is not None
    assert harness.agent.offers.revision == 3
    assert harness.agent.heartbeat.frame == heartbeat
    assert harness.agent.draining


def test_capabilities_are_answered_with_the_models_that_receive_no_jobs(
    harness: AgentHarness, caplog: pytest.LogCaptureFixture
) -> None:
    unsupported = offer("unsupported", operations=["unknown"])
    for revision, models in enumerate([[offer(), unsupported], [offer()], [unsupported]]):
        harness.receive(Capabilities(revision, models, AgentLimits(4)))

    (line,) = [line for line in caplog.records if line.message == "offered models receive no jobs"]
    assert getattr(line, "fields", {})["first"] == "unsupported"
    first, second, _ = harness.take_frames()
    assert isinstance(first, RoutingStatus)
    (unroutable,) = first.unroutable
    assert (unroutable.model_id, unroutable.code) == ("unsupported", "not_supported")
    assert second == RoutingStatus(1, [])


def test_unknown_frames_are_counted_but_logged_only_once(
    harness: AgentHarness, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "provider_agent.coordinator"):
        for _ in range(2):
            harness.agent.receive_message(msgspec.msgpack.encode([[63, "secret"], [62]]))
    assert harness.agent.unknown_frames == 4
    assert [record.message for record in caplog.records] == ["unknown frame type skipped"]
    assert "secret" not in caplog.text


def test_job_runs_from_submit_to_its_final_acknowledgement(harness: AgentHarness) -> None:
    job = harness.agent.submit(JOB)
    assert harness.take_frames() == [JOB.header, RequestChunk(JOB_ID, 0, JOB.request)]
    assert (harness.agent.in_flight, harness.agent.in_flight_of("tiny")) == (1, 1)
    harness.now += 3.0
    harness.receive(JobStarted(JOB_ID, 200, "text/plain", "b"), Chunk(JOB_ID, 0, b"abc"))
    assert harness.take_frames() == []
    assert job.take() == b"abc"
    job.owner.consume(job, 3)
    assert job.unconsumed == 0
    result = JobResult(JOB_ID, 3, Usage(None, None), "b", 1, 1)
    harness.receive(result)
    assert job.end == result
    assert harness.take_frames() == [Ack(JOB_ID, 3, final=True)]
    assert (harness.agent.in_flight, harness.agent.in_flight_of("tiny")) == (0, 0)
    assert harness.registry.ended == [(PUBLIC_KEY, "tiny", result, 3.0)]


def test_bytes_are_acknowledged_only_after_they_are_passed_on(harness: AgentHarness) -> None:
    job = harness.agent.submit(JOB)
    harness.take_frames()
    half = CoordinatorSettings().window_bytes // 2
    harness.receive(JobStarted(JOB_ID, 200, "", "b"), Chunk(JOB_ID, 0, bytes(half)))
    assert harness.take_frames() == []
    job.owner.consume(job, half)
    assert harness.take_frames() == [Ack(JOB_ID, half)]


def test_abandoned_job_is_cancelled_once_and_its_bytes_are_acknowledged(
    harness: AgentHarness,
) -> None:
    job = harness.agent.submit(JOB)
    harness.take_frames()
    half = CoordinatorSettings().window_bytes // 2
    harness.receive(JobStarted(JOB_ID, 200, "", "b"), Chunk(JOB_ID, 0, bytes(half)))
    job.owner.abandon(job)
    job.owner.abandon(job)
    assert harness.take_frames() == [Cancel(JOB_ID, CANCEL_REASON), Ack(JOB_ID, half)]
    harness.receive(Chunk(JOB_ID, half, bytes(half)))
    assert harness.take_frames() == [Ack(JOB_ID, 2 * half)]


def test_abandoning_an_ended_job_sends_no_cancel(harness: AgentHarness) -> None:
    job = harness.agent.submit(JOB)
    harness.take_frames()
    harness.receive(JobError(JOB_ID, 0, "internal", ""))
    harness.take_frames()
    job.owner.abandon(job)
    assert harness.take_frames() == []


def test_agent_leaves_the_registry_once_with_its_jobs(harness: AgentHarness) -> None:
    job = harness.agent.submit(JOB)
    harness.agent.leave(keep_session=True)
    harness.agent.leave()
    ((session, keep_session),) = harness.registry.left
    assert (session.jobs, keep_session) == ({JOB_ID: job}, True)
    assert job.owner is session


def test_frames_after_detach_are_ignored(harness: AgentHarness) -> None:
    job = harness.agent.submit(JOB)
    harness.take_frames()
    session = harness.agent.detach()
    harness.receive(JobStarted(JOB_ID, 200, "", "b"), Chunk(JOB_ID, 0, b"late"))
    harness.receive(JobError(JOB_ID, 4, "internal", ""))
    # With an `Ack` of the end here, the agent would not send the end again on the next link.
    assert harness.take_frames() == []
    assert (job.started, job.buffered_bytes, job.end) == (None, 0, None)
    assert session.jobs == {JOB_ID: job}
    harness.agent.leave()
    assert harness.registry.left == []


def test_resuming_agent_receives_welcome_then_acknowledgements_then_unreceived_jobs() -> None:
    first = AgentHarness()
    first.receive_hello()
    first.receive(Capabilities(1, [offer()], AgentLimits(4)), Draining(1000))
    job, unreceived = first.agent.submit(JOB), first.agent.submit(OTHER_JOB)
    first.receive(JobStarted(JOB_ID, 200, "", "b"), Chunk(JOB_ID, 0, b"abc"))
    job.owner.consume(job, 2)
    second = AgentHarness()
    second.registry.detached = first.agent.detach()
    second.take_frames()
    second.now += 0.5
    second.receive_hello(session_id=b"s" * 16, live_jobs=[LiveJob(JOB_ID, 0, 5)])
    welcome, ack, resent, *requests = second.take_frames()
    assert isinstance(welcome, Welcome)
    assert (welcome.session_id, welcome.resumed) == (b"s" * 16, [ResumedJob(JOB_ID, 3)])
    assert ack == Ack(JOB_ID, 2)
    assert resent == msgspec.structs.replace(OTHER_JOB.header, deadline_ms=500)
    assert requests == [
        RequestChunk(JOB_ID, 0, JOB.request),
        RequestChunk(OTHER_JOB.job_id, 0, OTHER_JOB.request),
    ]
    assert job.owner is unreceived.owner
    assert second.agent.in_flight_of("tiny") == 2
    assert second.agent.resumed
    assert (second.agent.offers, second.agent.draining) == (first.agent.offers, True)
    second.receive(Chunk(JOB_ID, 2, b"cde"))
    assert job.take() == b"abcde"


def test_retired_agent_is_closed_when_its_last_job_ends(harness: AgentHarness) -> None:
    models = [offer(), offer("unsupported", operations=["unknown"])]
    harness.receive(Capabilities(3, models, AgentLimits(4)))
    harness.agent.submit(JOB)
    harness.take_frames()
    harness.agent.retire()
    assert harness.close_reasons == []
    assert "retired" in repr(harness.agent)
    notice, status = harness.take_frames()
    assert isinstance(notice, Notice)
    assert isinstance(status, RoutingStatus)
    assert (notice.code, status.revision) == ("replaced", 3)
    assert {model.model_id: model.code for model in status.unroutable} == {
        "tiny": "replaced",
        "unsupported": "replaced",
    }
    harness.receive(JobError(JOB_ID, 0, "internal", ""))
    (close_reason,) = harness.close_reasons
    assert (close_reason.close_code, close_reason.flush) == (REPLACED, True)


def test_send_queue_is_full_until_large_requests_are_sent(
    harness: AgentHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_jobs, "MAX_UNSENT_REQUEST_BYTES", 1000)
    notices = []
    for number in range(4):
        job_id = bytes([number]) * 16
        harness.agent.submit(msgspec.structs.replace(JOB, job_id=job_id, request=bytes(2000)))
        assert harness.agent.send_queue_full
        if number % 2:
            notices += [frame for frame in harness.take_frames() if isinstance(frame, Notice)]
            assert not harness.agent.send_queue_full
    # A notice is sent when a `submit` fills the queue, unless the `submit` before it did so, too.
    assert [notice.code for notice in notices] == ["slow_reading"]
    harness.agent.submit(msgspec.structs.replace(JOB, job_id=b"s" * 16))
    harness.agent.submit(msgspec.structs.replace(JOB, job_id=b"l" * 16, request=bytes(2000)))
    codes = [frame.code for frame in harness.take_frames() if isinstance(frame, Notice)]
    assert codes == ["slow_reading"], "the small job did not fill the queue"


def test_drain_is_sent_only_after_the_handshake(harness: AgentHarness) -> None:
    fresh = AgentHarness()
    fresh.agent.send_drain("stop")
    assert fresh.take_frames() == [Challenge(NONCE, "test")]
    harness.agent.send_drain("stop")
    assert harness.take_frames() == [Drain("stop", RECONNECT_AFTER_MS)]
    assert harness.wakes > 0
