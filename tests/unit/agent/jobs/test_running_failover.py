"""Jobs that fail over to another backend, and those that must not."""

import asyncio
import logging

import pytest

from provider_agent.adapters.base import (
    BackendError,
    BackendTimeout,
    BadRequest,
    BadStatus,
    ErrorInStream,
    InvalidResponse,
    ModelNotFound,
    PromptTooLong,
    Transport,
    Unreachable,
    Usage,
)
from provider_agent.agent.jobs.execution import StopReason
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import JobResult, JobStarted
from tests.kit.jobs import new_job, submit_job
from tests.kit.jobs_harness import JobsHarness, start_job
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.virtual_time import in_virtual_time, now

OVERLOADED = ErrorCode.BACKEND_OVERLOADED
AUTH = ErrorCode.AUTH_REJECTED_BY_BACKEND


def status(number: int, code: ErrorCode = ErrorCode.BACKEND_ERROR) -> BadStatus:
    return BadStatus(number, b"", code)


def two_backends() -> tuple[ScriptedBackend, ScriptedBackend]:
    return ScriptedBackend("a"), ScriptedBackend("b")


# --- failover -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
    [
        Unreachable("refused"),
        Transport("reset before headers"),
        BackendTimeout("first byte timeout"),
        InvalidResponse("the stream is empty"),
        ErrorInStream(b"{}", ErrorCode.BACKEND_ERROR),
        ModelNotFound("unloaded"),
        status(500),
        status(503, OVERLOADED),
        status(401, AUTH),
    ],
    ids=lambda failure: str(failure),
)
@in_virtual_time
async def test_a_job_that_fails_before_its_response_fails_over(
    failure: BackendError,
) -> None:
    first, second = two_backends()
    harness = JobsHarness(first, second)
    job, run = await start_job(harness, first)
    await asyncio.sleep(5)
    run.fail(failure)
    run = await second.next_run()
    assert run.job == job
    assert [harness.pool.running[one] for one in "ab"] == [0, 1]
    assert (harness.jobs.in_flight, harness.jobs.queued) == (1, 1)
    run.start()
    await asyncio.sleep(0.01)
    run.send(b"one ", b"two")
    run.finish()
    end = await harness.end(job)
    assert end == JobResult(job.job_id, 7, Usage(3, 4), "b", 5010, 5000), (
        "times count from the arrival of the job"
    )
    assert harness.data(job) == b"one two"
    starts = [one for one in harness.sent if isinstance(one, JobStarted)]
    assert starts == [JobStarted(job.job_id, 200, "text/event-stream", "b")]
    (record,) = harness.records
    assert (record.backend_kind, record.attempts, record.first_byte_s) == ("scripted", 2, 5.0)
    assert record.failover_causes == (failure.code,)
    outcomes = [
        ("a", "started", 0),
        ("a", failure.code, 0),
        ("b", "started", 0),
        ("b", "succeeded", 7),
    ]
    assert harness.pool.outcomes == outcomes
    assert [harness.pool.running[one] for one in "ab"] == [0, 0]


async def test_a_job_ends_with_the_last_error_after_three_attempts() -> None:
    backends = [ScriptedBackend(name) for name in "abcd"]
    harness = JobsHarness(*backends)
    job = new_job()
    submit_job(harness.jobs, job)
    for number, backend in enumerate(backends[:3]):
        (await backend.next_run()).fail(BackendTimeout(f"failure {number}"))
    error = await harness.error(job)
    assert (error.code, error.message) == ("backend_timeout", "failure 2")
    assert backends[3].runs == []
    assert [one.attempts for one in harness.records] == [3]


async def test_a_job_reaches_the_only_backend_that_accepts_connections() -> None:
    # In an earlier version, refused connections used up the three attempts.
    backends = [ScriptedBackend(name) for name in "abcde"]
    harness = JobsHarness(*backends)
    job = new_job()
    submit_job(harness.jobs, job)
    for backend in backends[:4]:
        (await backend.next_run()).fail(Unreachable("refused"))
    (await backends[4].next_run()).answer(b"x")
    assert isinstance(await harness.end(job), JobResult)


async def test_when_both_backends_fail_the_last_error_is_reported() -> None:
    first, second = two_backends()
    harness = JobsHarness(first, second)
    job, run = await start_job(harness, first)
    run.fail(Unreachable("refused"))
    (await second.next_run()).fail(BadStatus(429, b"slow down", OVERLOADED, 2.5))
    error = await harness.error(job)
    assert (error.code, error.upstream_status, error.body) == (
        "backend_overloaded",
        429,
        b"slow down",
    )
    assert error.retry_after_ms == 2500


@pytest.mark.parametrize("number", [408, 500, 502, 504, 524, 529])
async def test_a_transient_status_is_retried_once_on_the_only_backend(number: int) -> None:
    # In an earlier version, the failed attempt still occupied its slot, so a backend with one slot
    # was not retried.
    backend = ScriptedBackend("a", max_concurrent=1)
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    run.fail(status(number))
    (await backend.next_run()).answer(b"better")
    assert isinstance(await harness.end(job), JobResult)
    job, run = await start_job(harness, backend)
    run.fail(status(number))
    (await backend.next_run()).fail(status(number))
    assert (await harness.error(job)).upstream_status == number
    assert [one.attempts for one in harness.records] == [2, 2]


@pytest.mark.parametrize(
    "failure",
    [
        status(503, OVERLOADED),
        status(429, OVERLOADED),
        status(401, AUTH),
        Unreachable("refused"),
        Transport("reset"),
        InvalidResponse("empty"),
    ],
    ids=lambda failure: str(failure),
)
async def test_a_lasting_failure_is_not_retried_on_the_same_backend(
    failure: BackendError,
) -> None:
    backend = ScriptedBackend("a")
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    run.fail(failure)
    assert (await harness.error(job)).code == failure.code
    assert len(backend.runs) == 1


async def test_a_backend_whose_breaker_opened_is_not_retried() -> None:
    backend = ScriptedBackend("a")
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    harness.pool.unavailable = {"a"}
    run.fail(status(500))
    error = await harness.error(job)
    assert (error.code, error.upstream_status) == ("backend_error", 500)
    assert len(backend.runs) == 1


async def test_a_job_does_not_fail_over_to_a_full_backend() -> None:
    first, second = ScriptedBackend("a", max_concurrent=1), ScriptedBackend("b", max_concurrent=1)
    harness = JobsHarness(first, second)
    job, run = await start_job(harness, first)
    submit_job(harness.jobs, new_job())
    await second.next_run()
    run.fail(Unreachable("refused"))
    while not harness.ends(job):  # noqa: ASYNC110 - ends within a few iterations
        await asyncio.sleep(0)
    assert len(second.runs) == 1
    harness.jobs.stop_all(StopReason.CANCELLED, "")
    assert (await harness.error(job)).code == "backend_unreachable"


async def test_jobs_still_fail_over_while_the_agent_drains() -> None:
    first, second = two_backends()
    harness = JobsHarness(first, second)
    job, run = await start_job(harness, first)
    harness.jobs.set_accepting(accepting=False)
    run.fail(Unreachable("refused"))
    (await second.next_run()).answer(b"x")
    assert isinstance(await harness.end(job), JobResult)


async def test_failover_is_logged_without_the_servers_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "provider_agent")
    first, second = two_backends()
    harness = JobsHarness(first, second)
    job, run = await start_job(harness, first)
    run.fail(BadStatus(500, b"private", ErrorCode.BACKEND_ERROR, None, "private"))
    (await second.next_run()).answer(b"x")
    await harness.end(job)
    (record,) = [one for one in caplog.records if one.message == "job failed over"]
    fields = vars(record)["fields"]
    assert (fields["backend"], fields["error"]) == ("a", "backend_error")
    assert "private" not in repr([vars(one) for one in caplog.records])


# --- no failover ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"x"], ids=["started", "one byte"])
async def test_a_started_response_is_never_repeated(sent: bytes) -> None:
    # The start of a response fixes its status and content type, even if no byte follows.
    first, second = two_backends()
    harness = JobsHarness(first, second)
    job, run = await start_job(harness, first)
    run.start()
    run.send(sent)
    run.fail(status(500))
    error = await harness.error(job)
    assert (error.code, error.total_bytes) == ("backend_error", len(sent))
    assert second.runs == []


@pytest.mark.parametrize(
    "failure",
    [
        status(400, ErrorCode.BAD_REQUEST),
        status(413, ErrorCode.BAD_REQUEST),
        status(422, ErrorCode.BAD_REQUEST),
        status(400, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        status(500, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        BadRequest("no object"),
        PromptTooLong(9000, 4096),
    ],
    ids=lambda failure: str(failure),
)
async def test_a_clients_error_does_not_fail_over(failure: BackendError) -> None:
    first, second = two_backends()
    harness = JobsHarness(first, second)
    job, run = await start_job(harness, first)
    run.fail(failure)
    error = await harness.error(job)
    assert (error.code, error.retryable) == (failure.code, False)
    assert (len(first.runs), len(second.runs)) == (1, 0)


# --- stops and deadlines --------------------------------------------------------------------------


@in_virtual_time
async def test_the_deadline_spans_all_attempts() -> None:
    first, second = two_backends()
    harness = JobsHarness(first, second)
    began = now()
    job, run = await start_job(harness, first)
    await asyncio.sleep(40)
    run.fail(Unreachable("refused"))
    await second.next_run()
    assert (await harness.error(job)).code == "deadline_exceeded"
    assert now() - began == pytest.approx(60)
    # A deadline of 30 s or more that passes without output counts as a failure of the backend:
    # health checks may not detect a server that hangs.
    assert harness.pool.outcomes[-1] == ("b", "backend_timeout", 0)


@in_virtual_time
async def test_a_passed_short_deadline_is_not_the_backends_failure() -> None:
    first, second = two_backends()
    harness = JobsHarness(first, second)
    job = new_job(deadline_ms=29_000)
    submit_job(harness.jobs, job)
    assert (await harness.error(job)).code == "deadline_exceeded"
    assert harness.pool.outcomes == [("a", "started", 0), ("a", "abandoned", 0)]


@pytest.mark.parametrize("reason", list(StopReason))
async def test_a_job_stopped_in_its_second_attempt_ends_with_the_reason(
    reason: StopReason,
) -> None:
    first, second = two_backends()
    harness = JobsHarness(first, second)
    job, run = await start_job(harness, first)
    run.fail(Unreachable("refused"))
    run = await second.next_run()
    harness.jobs.stop_all(reason, "enough")
    error = await harness.error(job)
    assert (error.code, error.message) == (str(reason), "enough")
    assert run.cancelled.is_set()
    outcomes = [("a", "backend_unreachable", 0), ("b", "started", 0), ("b", "abandoned", 0)]
    assert harness.pool.outcomes[1:] == outcomes
    assert [harness.pool.running[one] for one in "ab"] == [0, 0]


async def test_a_cancelled_job_does_not_fail_over() -> None:
    # In an earlier version, an error that the adapter raised when cancelled caused a failover, and
    # the new attempt could no longer be stopped.
    first, second = two_backends()
    first.error_on_cancel = Transport("the connection was closed")
    harness = JobsHarness(first, second)
    job, _ = await start_job(harness, first)
    harness.jobs.cancel(job.job_id, "the client disconnected")
    assert (await harness.error(job)).code == "cancelled"
    assert second.runs == []
    assert harness.pool.outcomes == [("a", "started", 0), ("a", "abandoned", 0)]


@in_virtual_time
async def test_a_job_past_its_deadline_does_not_fail_over() -> None:
    first, second = two_backends()
    first.error_on_cancel = status(500)
    harness = JobsHarness(first, second)
    job, _ = await start_job(harness, first)
    assert (await harness.error(job)).code == "deadline_exceeded"
    assert (len(first.runs), len(second.runs)) == (1, 0)
    assert harness.pool.outcomes == [("a", "started", 0), ("a", "backend_timeout", 0)]


async def test_a_defect_of_an_adapter_is_not_the_backends_failure() -> None:
    first, second = two_backends()
    harness = JobsHarness(first, second)
    job, run = await start_job(harness, first)
    run.fail(RuntimeError("a defect"))
    assert (await harness.error(job)).code == "internal"
    assert harness.pool.outcomes == [("a", "started", 0), ("a", "abandoned", 0)]
