import pytest

from provider_agent.coordinator.sessions.detached_session import (
    MAX_SENDS,
    DetachedSession,
    fail_missing,
)
from provider_agent.coordinator.sessions.running_job import JobOwner, RunningJob
from provider_agent.protocol.frames import Chunk, Job, JobError, JobStarted, LiveJob
from provider_agent.protocol.limits import MIN_WINDOW_BYTES
from provider_agent.protocol.stream import ReceiveStream

JOB_ID = bytes(16)
STRANGE = LiveJob(b"?" * 16, 0, 0)


class Nobody:
    def acknowledge(self, job: RunningJob, count: int) -> None: ...

    def abandon(self, job: RunningJob) -> None: ...


def running(owner: JobOwner, received: bytes = b"", *, started: bool = True) -> RunningJob:
    job = RunningJob(Job(JOB_ID, "tiny", "openai", b"{}", 1000), owner, 0.0)
    if started:
        job.on_started(JobStarted(JOB_ID, 200, "text/plain", "b"))
    if received:
        job.on_data(received)
    return job


def lost(job: RunningJob, received: bytes = b"") -> tuple[DetachedSession, ReceiveStream]:
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
    )
    return session, stream


@pytest.mark.parametrize(
    ("started", "send_count", "offered", "outcome"),
    [
        (True, 1, [LiveJob(JOB_ID, 0, 9)], "streams"),
        (True, 1, [LiveJob(JOB_ID, 3, 3)], "streams"),
        (True, 1, [STRANGE, LiveJob(JOB_ID, 0, 9)], "streams"),
        (True, 1, [], "failed"),
        (True, 1, [STRANGE], "failed"),
        (True, 1, [LiveJob(JOB_ID, 4, 9)], "failed"),
        (True, 1, [LiveJob(JOB_ID, 0, 2)], "failed"),
    ],
)
def test_job_with_output_goes_on_or_fails(
    started: bool, send_count: int, offered: list[LiveJob], outcome: str
) -> None:
    job = running(Nobody(), b"abc", started=started)
    job.send_count = send_count
    assert outcome_of(*lost(job, b"abc"), offered) == outcome


@pytest.mark.parametrize(
    ("started", "send_count", "offered", "outcome"),
    [
        (False, 1, [], "lost"),
        (False, 1, [STRANGE], "lost"),
        (False, MAX_SENDS - 1, [], "lost"),
        (False, MAX_SENDS, [], "failed"),
        (False, MAX_SENDS, [LiveJob(JOB_ID, 0, 0)], "streams"),
        (False, 1, [LiveJob(JOB_ID, 0, 0)], "streams"),
        (False, 1, [LiveJob(JOB_ID, 1, 1)], "failed"),
        (True, 1, [], "failed"),
    ],
)
def test_job_without_output_goes_on_is_sent_again_or_fails(
    started: bool, send_count: int, offered: list[LiveJob], outcome: str
) -> None:
    job = running(Nobody(), started=started)
    job.send_count = send_count
    assert outcome_of(*lost(job), offered) == outcome


def outcome_of(session: DetachedSession, stream: ReceiveStream, offered: list[LiveJob]) -> str:
    continuation = session.plan_resumption(offered)
    assert continuation.streams in ({}, {JOB_ID: stream})
    found = {
        "streams": len(continuation.streams),
        "lost": len(continuation.lost),
        "failed": len(continuation.failed),
    }
    assert sum(found.values()) == 1
    return max(found, key=lambda name: found[name])


def test_what_a_client_takes_meanwhile_counts_for_the_next_link() -> None:
    session, stream = lost(job := running(Nobody(), b"abc"), b"abc")
    assert job.owner is session
    job.owner.acknowledge(job, 2)
    assert (stream.consumed, job.unacknowledged) == (2, 1)
    assert stream.resume(MIN_WINDOW_BYTES) == 2


def test_job_whose_client_left_is_forgotten() -> None:
    session, _ = lost(job := running(Nobody()))
    job.owner.abandon(job)
    job.owner.abandon(job)
    job.owner.acknowledge(job, 0)
    assert session.jobs == {}
    assert session.plan_resumption([LiveJob(JOB_ID, 0, 0)]).streams == {}
    session.end()
    assert job.end is None


@pytest.mark.parametrize("forgotten", [False, True])
def test_end_is_one_retryable_error_for_each_job(forgotten: bool) -> None:
    session, _ = lost(job := running(Nobody()))
    if forgotten:
        fail_missing([job])
    session.end()
    session.end()
    assert isinstance(job.end, JobError)
    assert (job.end.code, job.end.retryable) == ("backend_unreachable", True)
    assert ("came back" if forgotten else "was lost") in job.end.message
