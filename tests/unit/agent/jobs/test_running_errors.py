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
    MissingApiKey,
    ModelNotFound,
    Transport,
    Unreachable,
)
from provider_agent.adapters.errors import RefusedRequest
from provider_agent.agent.backends.adapter_calls import CANCEL_S
from provider_agent.agent.jobs.job_record import JobRecord
from provider_agent.agent.jobs.running import Jobs
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import JobResult
from provider_agent.protocol.limits import MAX_ERROR_BODY_BYTES, MAX_TEXT_CHARS
from tests.kit.jobs import new_job, submit_job
from tests.kit.jobs_harness import JobsHarness, start_job
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.virtual_time import VirtualTimeLoop, in_virtual_time, now


class CustomError(BackendError):
    """An error class of a third party's adapter."""


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Unreachable("refused"), ("backend_unreachable", None, b"", None)),
        (Transport("broke"), ("backend_unreachable", None, b"", None)),
        (BackendTimeout("silence"), ("backend_timeout", None, b"", None)),
        (InvalidResponse("early end"), ("invalid_response", None, b"", None)),
        (ModelNotFound("gone"), ("model_not_loaded", None, b"", None)),
        (MissingApiKey("no key"), ("auth_rejected_by_backend", None, b"", None)),
        (BadRequest("no object"), ("bad_request", None, b"", None)),
        (CustomError("odd"), ("backend_error", None, b"", None)),
        (
            ErrorInStream(b'{"error":1}', ErrorCode.BACKEND_OVERLOADED),
            ("backend_overloaded", None, b'{"error":1}', None),
        ),
        (
            BadStatus(429, b"slow down", ErrorCode.BACKEND_OVERLOADED, 2.5),
            ("backend_overloaded", 429, b"slow down", 2500),
        ),
        (
            BadStatus(400, b"too long", ErrorCode.CONTEXT_LENGTH_EXCEEDED),
            ("context_length_exceeded", 400, b"too long", None),
        ),
        # A value that no frame can carry must not end the link, and with it every other job.
        (BadStatus(999, b"", ErrorCode.BACKEND_ERROR, -1.0), ("backend_error", None, b"", 0)),
    ],
)
async def test_a_backends_error_becomes_the_jobs_end(
    failure: BackendError, expected: tuple[str, int | None, bytes, int | None]
) -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    run.start()
    run.send(b"part")
    run.fail(failure)
    error = await harness.error(job)
    assert (error.code, error.upstream_status, error.body, error.retry_after_ms) == expected
    assert error.message == str(failure)
    assert error.total_bytes == 4


async def test_a_long_error_is_truncated() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    body = bytes(2 * MAX_ERROR_BODY_BYTES)
    run.fail(BadStatus(401, body, ErrorCode.AUTH_REJECTED_BY_BACKEND, None, "x" * 100_000))
    error = await harness.error(job)
    assert len(error.message) == MAX_TEXT_CHARS
    assert len(error.body) == MAX_ERROR_BODY_BYTES


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("secret prompt"),
        KeyError("x"),
        TimeoutError(),
        RecursionError(),
        # Raised although the job is not cancelled. In an earlier version, the job then ended with
        # `draining`.
        asyncio.CancelledError(),
        # In an earlier version, `sys.exit()` in an adapter ended the agent.
        SystemExit(9),
    ],
)
async def test_a_defect_of_an_adapter_ends_only_its_job(
    failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    _, other = await start_job(harness, backend)
    run.fail(failure)
    other.answer(b"fine")
    error = await harness.error(job)
    assert (error.code, error.message, error.retryable) == (
        "internal",
        "internal error of the agent",
        True,
    )
    (logged,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert logged.message == "job failed by an internal error"
    assert sum(isinstance(one.end, JobResult) for one in harness.records) == 1


@pytest.mark.parametrize(
    ("failure", "logged"),
    [
        (RefusedRequest("n is not between 1 and 8"), "n is not between 1 and 8"),
        (RefusedRequest("secret has over 9 values", "a field has over 9 values"), "a field has "),
        (BadRequest("the secret is not accepted"), None),
        (BadStatus(400, b"secret", ErrorCode.BAD_REQUEST, None, "secret"), None),
    ],
)
async def test_log_says_why_the_agent_refused_a_request_without_text_of_the_client(
    failure: BackendError, logged: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "provider_agent")
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    run.fail(failure)
    assert (await harness.error(job)).message == str(failure), "the client receives the message"
    (record,) = [one for one in caplog.records if one.message == "job ended"]
    message = vars(record)["fields"].get("message")
    assert message is None if logged is None else message.startswith(logged)
    assert "secret" not in str(vars(record)["fields"])


@pytest.mark.parametrize("tokens", [-1, 2**53, 10**30])
async def test_invalid_token_counts_are_unknown(tokens: int) -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    run.start()
    run.finish(input_tokens=tokens, output_tokens=tokens)
    end = await harness.end(job)
    assert isinstance(end, JobResult)
    assert (end.usage.input_tokens, end.usage.output_tokens) == (None, None)


async def test_bytes_before_the_start_fail_the_job() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    with pytest.raises(RuntimeError) as caught:
        run.send(b"too early")
    run.fail(caught.value)
    error = await harness.error(job)
    assert (error.code, error.total_bytes) == ("internal", 0)


@pytest.mark.parametrize(
    ("cause", "code"), [("cancel", "cancelled"), ("deadline", "deadline_exceeded")]
)
@in_virtual_time
async def test_job_ends_although_its_adapter_ignores_the_cancellation(
    cause: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    # In an earlier version, such a job never ended, and always counted as running.
    backend = ScriptedBackend()
    backend.hold_cancel = asyncio.Event()
    harness = JobsHarness(backend)
    job = new_job(deadline_ms=30_000)
    began = now()
    submit_job(harness.jobs, job)
    run = await backend.next_run()
    run.start()
    if cause == "cancel":
        harness.jobs.cancel(job.job_id, "the client disconnected")
    assert (await harness.error(job)).code == code
    assert now() - began == pytest.approx((30 if cause == "deadline" else 0) + CANCEL_S)
    assert harness.jobs.in_flight == 0
    assert caplog.messages.count("adapter ignored cancellation") == 1
    run.send(b"too late")
    backend.hold_cancel.set()
    await asyncio.sleep(1)


@in_virtual_time
async def test_cancelled_job_has_ended_although_the_event_loop_was_blocked_meanwhile(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job = new_job(deadline_ms=30_000)
    submit_job(harness.jobs, job)
    run = await backend.next_run()
    run.start()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    harness.jobs.cancel(job.job_id, "the client disconnected")
    loop.call_soon(loop.jump, 2 * CANCEL_S)  # after the task, and before its callback
    assert (await harness.error(job)).code == "cancelled"
    assert "adapter ignored cancellation" not in caplog.messages


async def test_result_without_a_response_fails_the_job() -> None:
    # In an earlier version, such a job ended with a `JobResult` that no `JobStarted` preceded,
    # which the protocol forbids.
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    run.finish()
    assert (await harness.error(job)).code == "internal"


async def test_jobs_become_idle_although_the_on_end_callback_raises(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)

    def observe(record: JobRecord) -> None:
        raise RuntimeError("a defect in the statistics")

    harness.jobs = Jobs(harness.pool, harness.outbox, 8, observe, now)
    job, run = await start_job(harness, backend)
    run.answer(b"x")
    assert isinstance(await harness.end(job), JobResult)
    await harness.jobs.wait_until_idle()
    assert "job not counted" in caplog.messages


async def test_neither_request_nor_response_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "provider_agent")
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job = new_job(request=b'{"messages":"a private question"}')
    submit_job(harness.jobs, job)
    (await backend.next_run()).answer(b"a private answer")
    await harness.end(job)
    assert "job ended" in caplog.messages
    assert "private" not in repr([vars(one) for one in caplog.records])
