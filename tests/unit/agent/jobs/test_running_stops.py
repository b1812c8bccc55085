import asyncio
import gc

import pytest

from provider_agent.adapters.base import Job, JobSink, Transport
from provider_agent.agent.jobs.execution import JobExecution, StopReason
from provider_agent.protocol.frames import Ack, JobError, JobResult, RequestChunk
from provider_agent.protocol.limits import MIN_WINDOW_BYTES
from tests.kit.jobs import new_job, submit_job
from tests.kit.jobs_harness import JobsHarness, start_job
from tests.kit.scripted_backend import ScriptedBackend, ScriptedRun
from tests.kit.virtual_time import in_virtual_time, now


async def start_job_with_full_window() -> tuple[JobsHarness, Job, ScriptedRun]:
    """Start a job whose full window is sent and not acknowledged, while more bytes wait."""
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    harness.outbox.set_window(MIN_WINDOW_BYTES)
    job, run = await start_job(harness, backend)
    run.start()
    run.send(bytes(MIN_WINDOW_BYTES), b"held back")
    harness.pump(acknowledge=False)
    return harness, job, run


async def test_cancel_stops_a_running_job() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    run.start()
    run.send(b"part")
    harness.jobs.cancel(job.job_id, "the client disconnected")
    error = await harness.error(job)
    assert run.cancelled.is_set()
    assert (error.code, error.message) == ("cancelled", "the client disconnected")
    assert (error.total_bytes, error.retryable) == (0, False), "unsent bytes are dropped"
    assert harness.data(job) == b""


async def test_cancel_under_a_full_window_ends_the_job_at_once() -> None:
    # In an earlier version, the end waited 86 s for the window, and its code differed from the one
    # in the agent's log.
    harness, job, _ = await start_job_with_full_window()
    harness.jobs.cancel(job.job_id, "the client disconnected")
    await harness.jobs.wait_until_idle()
    harness.pump(acknowledge=False)
    error = harness.sent[-1]
    assert isinstance(error, JobError)
    assert (error.code, error.total_bytes) == ("cancelled", MIN_WINDOW_BYTES)


@in_virtual_time
async def test_job_whose_request_does_not_arrive_ends_at_its_deadline() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job = new_job(deadline_ms=60_000)
    harness.jobs.submit(job.header)
    assert (await harness.error(job)).code == "deadline_exceeded"
    assert backend.runs == []
    assert harness.pool.outcomes[-1][1] == "abandoned", "the backend is not to blame"


async def test_cancel_before_the_first_step_of_the_task_ends_the_job() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job = new_job()
    submit_job(harness.jobs, job)
    harness.jobs.cancel(job.job_id, "at once")
    assert (await harness.error(job)).code == "cancelled"
    assert backend.runs == []
    assert harness.pool.running[backend.id] == 0


async def test_a_second_cancel_keeps_the_first_reason() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, _ = await start_job(harness, backend)
    harness.jobs.cancel(job.job_id, "first")
    harness.jobs.cancel(job.job_id, "second")
    harness.jobs.stop_all(StopReason.DRAINING, "third")
    assert (await harness.error(job)).message == "first"


async def test_cancel_after_the_end_or_of_an_unknown_job_is_ignored() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    run.answer(b"x")
    await harness.end(job)
    harness.jobs.cancel(job.job_id, "too late")
    harness.jobs.cancel(b"?" * 16, "unknown")
    assert isinstance(await harness.end(job), JobResult)


async def test_cancel_that_crosses_the_end_of_the_task_keeps_the_result_if_all_was_sent() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    run.start()
    run.send(b"x")
    harness.pump()
    run.finish()
    await asyncio.sleep(0)  # the task is done, its callback has not run yet
    harness.jobs.cancel(job.job_id, "crossing")
    assert isinstance(await harness.end(job), JobResult)


async def test_cancel_that_crosses_the_end_of_the_task_drops_unsent_bytes() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    run.answer(b"x")
    await asyncio.sleep(0)  # the task is done, its callback has not run yet
    harness.jobs.cancel(job.job_id, "crossing")
    error = await harness.error(job)
    assert (error.code, error.total_bytes) == ("cancelled", 0)
    assert error.usage.output_tokens == 4
    assert harness.data(job) == b""


async def test_ack_and_request_chunk_right_after_a_cancel_are_ignored() -> None:
    # In an earlier version, such an `Ack` released more bytes, and such a `RequestChunk` closed the
    # link with 1002.
    harness, job, run = await start_job_with_full_window()
    harness.jobs.cancel(job.job_id, "the client disconnected")
    harness.outbox.acknowledge(Ack(job.job_id, MIN_WINDOW_BYTES))
    harness.jobs.receive_request(RequestChunk(job.job_id, len(job.request) + 5, b"after a gap"))
    run.send(b"more")
    error = await harness.error(job)
    assert (error.code, error.total_bytes) == ("cancelled", MIN_WINDOW_BYTES)
    assert harness.data(job) == bytes(MIN_WINDOW_BYTES)


async def test_an_adapters_error_during_cancellation_is_ignored() -> None:
    # In an earlier version, the job ended with `backend_unreachable`, as if the backend had failed.
    backend = ScriptedBackend()
    backend.error_on_cancel = Transport("the connection was closed")
    harness = JobsHarness(backend)
    job, _ = await start_job(harness, backend)
    harness.jobs.cancel(job.job_id, "the client disconnected")
    error = await harness.error(job)
    assert (error.code, error.message) == ("cancelled", "the client disconnected")


async def test_stop_all_ends_every_job_with_the_reason() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    jobs = [(await start_job(harness, backend))[0] for _ in range(3)]
    harness.jobs.stop_all(StopReason.DRAINING, "no time left")
    ends = [await harness.error(job) for job in jobs]
    assert {(end.code, end.message) for end in ends} == {("draining", "no time left")}


async def test_bytes_after_a_cancellation_are_ignored() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    run.start()
    harness.jobs.cancel(job.job_id, "")
    await harness.jobs.wait_until_idle()
    run.send(b"late")
    assert harness.data(job) == b""
    assert (await harness.error(job)).total_bytes == 0


@in_virtual_time
async def test_the_deadline_ends_a_job() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    began = now()
    job = new_job(deadline_ms=90_000)
    submit_job(harness.jobs, job)
    run = await backend.next_run()
    run.start()
    run.send(b"part")
    error = await harness.error(job)
    assert (error.code, error.total_bytes, error.retryable) == ("deadline_exceeded", 0, False)
    assert "90000 ms" in error.message
    assert run.cancelled.is_set()
    assert now() - began == pytest.approx(90)


async def test_a_deadline_of_zero_ends_the_job() -> None:
    harness = JobsHarness(ScriptedBackend())
    job = new_job(deadline_ms=0)
    submit_job(harness.jobs, job)
    assert (await harness.error(job)).code == "deadline_exceeded"


@in_virtual_time
async def test_an_adapters_error_at_the_deadline_is_ignored() -> None:
    backend = ScriptedBackend()
    backend.error_on_cancel = Transport("the connection was closed")
    harness = JobsHarness(backend)
    job = new_job(deadline_ms=1000)
    submit_job(harness.jobs, job)
    assert (await harness.error(job)).code == "deadline_exceeded"


async def test_cancelled_job_releases_its_request_before_its_end_is_acknowledged() -> None:
    # In an earlier version, a coordinator that cancelled half-sent requests filled the agent's
    # memory.
    harness = JobsHarness(ScriptedBackend())
    job = new_job()
    harness.jobs.submit(job.header)
    harness.jobs.receive_request(RequestChunk(job.job_id, 0, job.request[:5]))
    harness.jobs.cancel(job.job_id, "the client disconnected")
    await harness.jobs.wait_until_idle()
    assert harness.outbox.channel(job.job_id).request.take() == b""


async def test_job_whose_start_cannot_be_sent_fails_even_if_its_task_has_just_ended() -> None:
    # Regression: the job ended with its `JobResult`. Its `total_bytes` counted the whole response,
    # but no byte had been sent, because `JobStarted` was withdrawn: a violation of the protocol.
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    run.answer(b"x")
    await asyncio.sleep(0)  # the task is done, its callback has not run yet
    started = harness.outbox.channel(job.job_id).stream.started
    assert started is not None
    harness.jobs.withdraw(started)
    error = await harness.error(job)
    assert (error.code, error.total_bytes) == ("internal", 0)


class BackendWithTimeout(ScriptedBackend):
    """Limits each job by `asyncio.timeout`, as the HTTP adapters do."""

    async def execute(self, job: Job, sink: JobSink) -> None:
        # A reference cycle: the timeout refers to the task, the task to its exception, and the
        # traceback of the exception to the variable `timeout`.
        timeout = asyncio.timeout(60)
        async with timeout:
            await super().execute(job, sink)


async def test_cancelled_job_is_freed_without_the_cyclic_garbage_collector() -> None:
    # The collector runs seldom. In an earlier version, cancelled requests of 16 MiB filled the
    # memory before it ran.
    backend = BackendWithTimeout()
    harness = JobsHarness(backend)
    gc.collect()
    gc.disable()
    try:
        job, run = await start_job(harness, backend)
        harness.jobs.cancel(job.job_id, "the client disconnected")
        assert (await harness.error(job)).code == "cancelled"
        backend.runs.clear()
        del run
        executions = [one for one in gc.get_objects() if isinstance(one, JobExecution)]
        assert job.job_id not in [one.header.job_id for one in executions]
    finally:
        gc.enable()
