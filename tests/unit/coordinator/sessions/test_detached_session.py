from collections import OrderedDict

import pytest

from provider_agent.coordinator.sessions.detached_session import (
    MAX_SENDS,
    DetachedSession,
    fail_missing,
)
from provider_agent.coordinator.sessions.job_counts import JobCounts
from provider_agent.coordinator.sessions.running_job import JobOwner, RunningJob
from provider_agent.protocol.frames import Chunk, JobError, JobStarted, LiveJob, ResumedJob
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import MIN_WINDOW_BYTES
from provider_agent.protocol.receive_stream import ReceiveStream

JOB_ID = bytes(16)
UNKNOWN = LiveJob(b"?" * 16, 0, 0)


class FakeOwner:
    def consume(self, job: RunningJob, count: int) -> None: ...

    def abandon(self, job: RunningJob) -> None: ...


def running_job(owner: JobOwner, received: bytes = b"", *, started: bool = True) -> RunningJob:
    job = RunningJob(Job(JOB_ID, "tiny", "openai", b"{}", 1000), owner, 0.0)
    if started:
        job.on_started(JobStarted(JOB_ID, 200, "text/plain", "b"))
    if received:
        job.on_data(received)
    return job


def detach(job: RunningJob, received: bytes = b"") -> tuple[DetachedSession, ReceiveStream]:
    stream = ReceiveStream(MIN_WINDOW_BYTES)
    if received:
        stream.receive(Chunk(JOB_ID, 0, received))
    session = DetachedSession(
        public_key=b"k",
        session_id=b"s",
        instance_id="one",
        retired=False,
        draining=False,
        offers=None,
        jobs={JOB_ID: job},
        streams={JOB_ID: stream, b"abandoned": ReceiveStream(MIN_WINDOW_BYTES)},
        counts=JobCounts(),
        ended=OrderedDict(),
    )
    return session, stream


@pytest.mark.parametrize(
    ("live_jobs", "outcome"),
    [
        pytest.param([LiveJob(JOB_ID, 0, 9)], "streams", id="next byte is held"),
        pytest.param([LiveJob(JOB_ID, 3, 3)], "streams", id="next byte is not yet written"),
        pytest.param([UNKNOWN, LiveJob(JOB_ID, 0, 9)], "streams", id="beside an unknown job"),
        pytest.param([], "failed", id="no live job"),
        pytest.param([UNKNOWN], "failed", id="only an unknown job"),
        pytest.param([LiveJob(JOB_ID, 4, 9)], "failed", id="next byte is discarded"),
        pytest.param([LiveJob(JOB_ID, 0, 2)], "failed", id="fewer bytes than received"),
    ],
)
def test_job_with_output_continues_only_if_the_agent_can_send_its_next_byte(
    live_jobs: list[LiveJob], outcome: str
) -> None:
    job = running_job(FakeOwner(), b"abc")
    assert outcome_of(*detach(job, b"abc"), live_jobs) == outcome


@pytest.mark.parametrize(
    ("started", "send_count", "live_jobs", "outcome"),
    [
        pytest.param(False, 1, [], "resend", id="missing"),
        pytest.param(False, 1, [UNKNOWN], "resend", id="missing beside an unknown job"),
        pytest.param(False, MAX_SENDS - 1, [], "resend", id="missing before the last send"),
        pytest.param(False, MAX_SENDS, [], "failed", id="missing after the last send"),
        pytest.param(False, MAX_SENDS, [LiveJob(JOB_ID, 0, 0)], "streams", id="live at last send"),
        pytest.param(False, 1, [LiveJob(JOB_ID, 0, 0)], "streams", id="live"),
        pytest.param(False, 1, [LiveJob(JOB_ID, 1, 1)], "failed", id="first byte is discarded"),
        pytest.param(True, 1, [], "failed", id="started but missing"),
    ],
)
def test_job_without_output_either_continues_or_is_resent_or_fails(
    started: bool, send_count: int, live_jobs: list[LiveJob], outcome: str
) -> None:
    job = running_job(FakeOwner(), started=started)
    job.send_count = send_count
    assert outcome_of(*detach(job), live_jobs) == outcome


def outcome_of(session: DetachedSession, stream: ReceiveStream, live_jobs: list[LiveJob]) -> str:
    """The part of the resumption plan that contains the session's only job."""
    plan = session.plan_resumption(live_jobs)
    assert plan.resumption.streams in ({}, {JOB_ID: stream})
    found = {
        "streams": len(plan.resumption.streams),
        "resend": len(plan.resend),
        "failed": len(plan.failed),
    }
    assert sum(found.values()) == 1
    return max(found, key=lambda name: found[name])


def test_bytes_passed_on_while_detached_are_acknowledged_on_the_next_link() -> None:
    session, stream = detach(job := running_job(FakeOwner(), b"abc"), b"abc")
    assert job.owner is session
    job.owner.consume(job, 2)
    assert (stream.consumed, job.unconsumed) == (2, 1)
    assert stream.resume(MIN_WINDOW_BYTES) == 2


def test_abandoned_job_is_cancelled_by_the_resumption() -> None:
    session, stream = detach(job := running_job(FakeOwner()))
    job.owner.abandon(job)
    job.owner.abandon(job)
    job.owner.consume(job, 0)
    assert session.jobs == {}
    plan = session.plan_resumption([LiveJob(JOB_ID, 0, 7)])
    assert plan.resumption.cancelled == {JOB_ID}
    assert plan.resumption.resumed == [ResumedJob(JOB_ID, 7)]
    assert stream.received == 7
    session.end()
    assert job.end is None


@pytest.mark.parametrize("missing", [False, True], ids=["session ended", "job missing"])
def test_failed_job_ends_with_one_retryable_error(missing: bool) -> None:
    session, _ = detach(job := running_job(FakeOwner()))
    if missing:
        fail_missing([job])
    session.end()
    session.end()
    assert isinstance(job.end, JobError)
    assert (job.end.code, job.end.retryable) == ("provider_lost", True)
    assert ("reconnected" if missing else "was lost") in job.end.message
