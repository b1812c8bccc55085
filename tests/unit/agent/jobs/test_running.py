import asyncio
import random

import pytest

from provider_agent.adapters.base import (
    BackendSettings,
    BadStatus,
    Job,
    Transport,
    Unreachable,
)
from provider_agent.adapters.servers.echo import EchoBackend
from provider_agent.agent.jobs.execution import StopReason
from provider_agent.agent.jobs.running import REMEMBERED_JOBS, JobRecord
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import (
    JobError,
    JobResult,
    JobStarted,
    RequestChunk,
    Usage,
)
from provider_agent.protocol.limits import MIN_WINDOW_BYTES
from tests.kit.jobs import new_job, submit_job
from tests.kit.jobs_harness import JobsHarness, start_job
from tests.kit.scripted_backend import ScriptedBackend, ScriptedRun
from tests.kit.virtual_time import in_virtual_time, now

# --- success --------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_job_runs_and_ends_with_its_result() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    assert run.job == job
    await asyncio.sleep(0.01)
    run.start()
    await asyncio.sleep(0.01)
    run.send(b"one ", b"two")
    run.finish()
    end = await harness.end(job)
    assert end == JobResult(job.job_id, 7, Usage(3, 4), backend.id, 20, 10)
    assert harness.data(job) == b"one two"
    assert harness.sent[0] == JobStarted(job.job_id, 200, "text/event-stream", backend.id)
    assert harness.records == [JobRecord("openai", "scripted", end, 0.01)]


async def test_counters_follow_the_jobs() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    _, first = await start_job(harness, backend)
    job, second = await start_job(harness, backend)
    assert (harness.jobs.in_flight, harness.jobs.queued) == (2, 2)
    assert harness.pool.running[backend.id] == 2
    first.start()
    assert harness.jobs.queued == 2, "a start without a byte still counts as queued"
    first.send(b"x")
    assert (harness.jobs.in_flight, harness.jobs.queued) == (2, 1)
    first.finish()
    second.answer()
    await harness.end(job)
    assert (harness.jobs.in_flight, harness.jobs.queued) == (0, 0)
    assert harness.pool.running[backend.id] == 0
    assert harness.jobs.last_job_at is not None
    assert repr(harness.jobs) == "<Jobs 0/100 accepting=True>"


async def test_jobs_spread_over_backends_by_load() -> None:
    backends = [ScriptedBackend(name, max_concurrent=2) for name in ("a", "b")]
    harness = JobsHarness(*backends)
    for _ in range(4):
        submit_job(harness.jobs, new_job())
    assert [harness.pool.running[one.id] for one in backends] == [2, 2]
    too_many = new_job()
    submit_job(harness.jobs, too_many)
    assert harness.refusal(too_many).code == "out_of_capacity"
    harness.jobs.stop_all(StopReason.CANCELLED, "")
    await harness.jobs.wait_until_idle()


# --- refusals -------------------------------------------------------------------------------------


async def test_jobs_above_max_concurrent_are_refused() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend, max_concurrent=2)
    _, first = await start_job(harness, backend)
    _, second = await start_job(harness, backend)
    too_many = new_job()
    submit_job(harness.jobs, too_many)
    refusal = harness.refusal(too_many)
    assert (refusal.code, refusal.retryable) == ("out_of_capacity", True)
    assert len(backend.runs) == 2
    first.answer()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    third, run = await start_job(harness, backend)
    second.answer()
    run.answer(b"x")
    assert isinstance(await harness.end(third), JobResult)


@pytest.mark.parametrize(
    ("job", "code"),
    [
        (new_job("unknown"), "model_not_loaded"),
        (new_job(wire_format="grpc"), "format_not_supported"),
        (new_job(operation="embeddings"), "format_not_supported"),
    ],
)
async def test_a_job_without_a_route_is_refused_at_once(job: Job, code: str) -> None:
    harness = JobsHarness(ScriptedBackend())
    submit_job(harness.jobs, job)
    refusal = harness.refusal(job)
    assert (refusal.code, refusal.total_bytes, refusal.retryable) == (code, 0, True)
    assert harness.records == [JobRecord(job.format, "", refusal, None, attempts=0)]


async def test_a_draining_agent_refuses_new_jobs_and_finishes_running_ones() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    harness.jobs.stop_accepting()
    late = new_job()
    submit_job(harness.jobs, late)
    assert harness.refusal(late).code == "draining"
    run.answer(b"x")
    assert isinstance(await harness.end(job), JobResult)


@pytest.mark.parametrize("request_body", [b"", b"[]", b'"text"', b"{", b"\xff", b"[" * 10_000])
async def test_a_request_that_is_not_a_json_object_is_a_bad_request(request_body: bytes) -> None:
    harness = JobsHarness(EchoBackend(BackendSettings(kind="echo")))
    job = new_job(request=request_body)
    submit_job(harness.jobs, job)
    error = await harness.error(job)
    assert (error.code, error.retryable, error.total_bytes) == ("bad_request", False, 0)


# --- duplicates -----------------------------------------------------------------------------------


async def test_a_job_submitted_twice_runs_once() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    submit_job(harness.jobs, job)
    run.answer(b"x")
    await harness.end(job)
    submit_job(harness.jobs, job)
    await harness.end(job)
    assert len(backend.runs) == 1
    assert len(harness.records) == 1


async def test_a_refused_job_submitted_again_has_one_end() -> None:
    harness = JobsHarness(ScriptedBackend())
    job = new_job("unknown")
    submit_job(harness.jobs, job)
    submit_job(harness.jobs, job)
    assert len(harness.ends(job)) == 1


async def test_a_running_job_is_recognized_after_any_number_of_later_jobs() -> None:
    # The bounded memory of job ids once forgot a running job, which then ran a second time.
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    for _ in range(REMEMBERED_JOBS):
        submit_job(harness.jobs, new_job("unknown"))
        harness.pump()
    submit_job(harness.jobs, job)
    await asyncio.sleep(0)
    assert len(backend.runs) == 1
    run.answer(b"x")
    assert isinstance(await harness.end(job), JobResult)


# --- stopping -------------------------------------------------------------------------------------


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
    # The end once waited for the window: 86 s, and with another code than in the agent's log.
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    harness.outbox.set_window(MIN_WINDOW_BYTES)
    job, run = await start_job(harness, backend)
    run.start()
    run.send(bytes(MIN_WINDOW_BYTES), b"held back")
    harness.pump(acknowledge=False)
    harness.jobs.cancel(job.job_id, "the client disconnected")
    await harness.jobs.wait_until_idle()
    harness.pump(acknowledge=False)
    error = harness.sent[-1]
    assert isinstance(error, JobError)
    assert (error.code, error.total_bytes) == ("cancelled", MIN_WINDOW_BYTES)


async def test_job_starts_when_its_request_has_arrived() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job = new_job()
    harness.jobs.submit(job.header)
    harness.jobs.receive_request(RequestChunk(job.job_id, 0, job.request[:5]))
    await asyncio.sleep(0)
    assert (harness.jobs.in_flight, backend.runs) == (1, [])
    (live,) = harness.outbox.live_jobs()
    assert (live.request_offset, live.ended) == (5, False)
    harness.jobs.receive_request(RequestChunk(job.job_id, 0, job.request))
    run = await backend.next_run()
    assert run.job.request == job.request
    run.answer(b"x")
    await harness.end(job)
    harness.jobs.receive_request(RequestChunk(job.job_id, 0, b"late"))


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


async def test_cancel_that_crosses_the_result_keeps_the_result() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    run.answer(b"x")
    await asyncio.sleep(0)  # the task is done, its callback has not run yet
    harness.jobs.cancel(job.job_id, "crossing")
    assert isinstance(await harness.end(job), JobResult)


async def test_an_adapters_error_during_cancellation_is_ignored() -> None:
    # A cancelled job once ended with `backend_unreachable`, the provider's fault.
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


# --- any order ------------------------------------------------------------------------------------


EVENTS = ["submit", "submit", "again", "answer", "fail", "cancel", "step", "pump"]


@pytest.mark.parametrize("seed", range(25))
async def test_every_job_has_one_end_after_any_sequence_of_events(seed: int) -> None:
    dice = random.Random(seed)
    backends = [ScriptedBackend(name, max_concurrent=4) for name in ("a", "b")]
    harness = JobsHarness(*backends, max_concurrent=6)
    jobs: list[Job] = []
    failures = [
        Unreachable("no"),
        BadStatus(500, b"", ErrorCode.BACKEND_ERROR),
        BadStatus(422, b"", ErrorCode.BAD_REQUEST),
    ]

    def random_run() -> ScriptedRun | None:
        runs = [one for backend in backends for one in backend.runs if not one.outcome.done()]
        return dice.choice(runs) if runs else None

    for _ in range(150):
        match dice.choice(EVENTS):
            case "submit":
                jobs.append(new_job(dice.choice(["m", "m", "m", "unknown"])))
                submit_job(harness.jobs, jobs[-1])
            case "again" if jobs:
                submit_job(harness.jobs, dice.choice(jobs))
            case "answer" if run := random_run():
                run.answer(b"x" * dice.randrange(1, 100))
            case "fail" if run := random_run():
                run.fail(dice.choice([*failures, RuntimeError("bug")]))
            case "cancel" if jobs:
                harness.jobs.cancel(dice.choice(jobs).job_id, "dice")
            case "step":
                await asyncio.sleep(0)
            case "pump":
                harness.pump(acknowledge=dice.random() < 0.7)
        on_backends = [harness.pool.running[one.id] for one in backends]
        assert all(0 <= count <= 4 for count in on_backends)
        # A failed attempt is settled at once; its job ends a turn of the loop later.
        assert sum(on_backends) <= harness.jobs.in_flight <= 6
        assert 0 <= harness.jobs.queued <= harness.jobs.in_flight
    harness.jobs.stop_all(StopReason.DRAINING, "the end of the test")
    await harness.jobs.wait_until_idle()
    assert len(harness.records) == len(jobs)
    assert [len(harness.ends(job)) for job in jobs] == [1] * len(jobs)
    assert [harness.pool.running[one.id] for one in backends] == [0, 0]
    outcomes = [what for _, what, _ in harness.pool.outcomes]
    assert outcomes.count("started") == len(outcomes) / 2, "every attempt has one outcome"
    assert outcomes.count("started") == sum(one.attempts for one in harness.records)
