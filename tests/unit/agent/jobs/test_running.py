import asyncio
import random

import pytest

from adapters.base import (
    BackendSettings,
    BadStatus,
    Job,
    Transport,
    Unreachable,
)
from adapters.echo import EchoBackend
from agent.jobs.running import REMEMBERED_JOBS, JobRecord, StopReason
from protocol.errors import ErrorCode
from protocol.frames import JobResult, JobStarted
from tests.kit.jobs import new_job
from tests.kit.jobs_bench import Bench, running
from tests.kit.scripted_backend import ScriptedBackend, ScriptedRun
from tests.kit.virtual_time import in_virtual_time, now

# --- the good way ---------------------------------------------------------------------------------


@in_virtual_time
async def test_a_job_runs_and_ends_with_its_result() -> None:
    backend = ScriptedBackend()
    bench = Bench(backend)
    job, run = await running(bench, backend)
    assert run.job == job
    run.answer(b"one ", b"two")
    end = await bench.end(job)
    assert end == JobResult(job.job_id, 7, 3, 4, 20, 10)
    assert bench.data(job) == b"one two"
    assert bench.sent[0] == JobStarted(job.job_id, 200, "text/event-stream", backend.id)
    assert bench.records == [JobRecord("openai", "scripted", end, 0.01)]


async def test_figures_follow_the_jobs() -> None:
    backend = ScriptedBackend()
    bench = Bench(backend)
    _, first = await running(bench, backend)
    job, second = await running(bench, backend)
    assert (bench.jobs.in_flight, bench.jobs.queued) == (2, 2)
    assert bench.serving.running[backend.id] == 2
    first.start()
    assert bench.jobs.queued == 2, "a start without a byte is no response yet"
    first.send(b"x")
    assert (bench.jobs.in_flight, bench.jobs.queued) == (2, 1)
    first.finish()
    second.answer()
    await bench.end(job)
    assert (bench.jobs.in_flight, bench.jobs.queued) == (0, 0)
    assert bench.serving.running[backend.id] == 0
    assert bench.jobs.last_offer_at is not None
    assert repr(bench.jobs) == "<Jobs 0/100 accepting=True>"


async def test_jobs_spread_over_backends_by_load() -> None:
    backends = [ScriptedBackend(name, max_concurrent=2) for name in ("a", "b")]
    bench = Bench(*backends)
    for _ in range(4):
        bench.jobs.offer(new_job())
    assert [bench.serving.running[one.id] for one in backends] == [2, 2]
    too_many = new_job()
    bench.jobs.offer(too_many)
    assert bench.refusal(too_many).code == "out_of_capacity"
    bench.jobs.stop_all(StopReason.CANCELLED, "")
    await bench.jobs.wait_until_idle()


# --- refusals -------------------------------------------------------------------------------------


async def test_as_many_as_the_agent_takes_and_no_more_at_once() -> None:
    backend = ScriptedBackend()
    bench = Bench(backend, max_concurrent=2)
    _, first = await running(bench, backend)
    _, second = await running(bench, backend)
    too_many = new_job()
    bench.jobs.offer(too_many)
    refusal = bench.refusal(too_many)
    assert (refusal.code, refusal.retryable) == ("out_of_capacity", True)
    assert len(backend.runs) == 2
    first.answer()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    third, run = await running(bench, backend)
    second.answer()
    run.answer(b"x")
    assert isinstance(await bench.end(third), JobResult)


@pytest.mark.parametrize(
    ("job", "code"),
    [
        (new_job("unknown"), "model_not_loaded"),
        (new_job(wire_format="grpc"), "format_not_supported"),
        (new_job(operation="embeddings"), "format_not_supported"),
    ],
)
async def test_what_cannot_run_is_refused_at_once(job: Job, code: str) -> None:
    bench = Bench(ScriptedBackend())
    bench.jobs.offer(job)
    refusal = bench.refusal(job)
    assert (refusal.code, refusal.total_bytes, refusal.retryable) == (code, 0, True)
    assert bench.records == [JobRecord(job.format, "", refusal, None, attempts=0)]


async def test_a_draining_agent_refuses_and_finishes_what_runs() -> None:
    backend = ScriptedBackend()
    bench = Bench(backend)
    job, run = await running(bench, backend)
    bench.jobs.accepting = False
    late = new_job()
    bench.jobs.offer(late)
    assert bench.refusal(late).code == "draining"
    run.answer(b"x")
    assert isinstance(await bench.end(job), JobResult)


@pytest.mark.parametrize("request_body", [b"", b"[]", b'"text"', b"{", b"\xff", b"[" * 10_000])
async def test_a_request_that_is_not_a_json_object_is_a_bad_request(request_body: bytes) -> None:
    bench = Bench(EchoBackend(BackendSettings(kind="echo")))
    job = new_job(request=request_body)
    bench.jobs.offer(job)
    error = await bench.error(job)
    assert (error.code, error.retryable, error.total_bytes) == ("bad_request", False, 0)


# --- once -----------------------------------------------------------------------------------------


async def test_a_job_that_is_offered_twice_runs_once() -> None:
    backend = ScriptedBackend()
    bench = Bench(backend)
    job, run = await running(bench, backend)
    bench.jobs.offer(job)
    run.answer(b"x")
    await bench.end(job)
    bench.jobs.offer(job)
    await bench.end(job)
    assert len(backend.runs) == 1
    assert len(bench.records) == 1


async def test_a_refused_job_that_is_offered_again_is_not_answered_twice() -> None:
    bench = Bench(ScriptedBackend())
    job = new_job("unknown")
    bench.jobs.offer(job)
    bench.jobs.offer(job)
    assert len(bench.ends(job)) == 1


async def test_a_running_job_is_known_however_many_came_after_it() -> None:
    # The memory of ended jobs once forgot a long-running one, which then ran a second time.
    backend = ScriptedBackend()
    bench = Bench(backend)
    job, run = await running(bench, backend)
    for _ in range(REMEMBERED_JOBS):
        bench.jobs.offer(new_job("unknown"))
        bench.pump()
    bench.jobs.offer(job)
    await asyncio.sleep(0)
    assert len(backend.runs) == 1
    run.answer(b"x")
    assert isinstance(await bench.end(job), JobResult)


# --- stopping -------------------------------------------------------------------------------------


async def test_cancel_stops_a_running_job() -> None:
    backend = ScriptedBackend()
    bench = Bench(backend)
    job, run = await running(bench, backend)
    run.start()
    run.send(b"part")
    bench.jobs.cancel(job.job_id, "the client went away")
    error = await bench.error(job)
    assert run.cancelled.is_set()
    assert (error.code, error.message) == ("cancelled", "the client went away")
    assert (error.total_bytes, error.retryable) == (4, False)
    assert bench.data(job) == b"part"


async def test_cancel_before_the_first_step_of_the_task() -> None:
    backend = ScriptedBackend()
    bench = Bench(backend)
    job = new_job()
    bench.jobs.offer(job)
    bench.jobs.cancel(job.job_id, "at once")
    assert (await bench.error(job)).code == "cancelled"
    assert backend.runs == []
    assert bench.serving.running[backend.id] == 0


async def test_cancel_twice_keeps_the_first_reason() -> None:
    backend = ScriptedBackend()
    bench = Bench(backend)
    job, _ = await running(bench, backend)
    bench.jobs.cancel(job.job_id, "first")
    bench.jobs.cancel(job.job_id, "second")
    bench.jobs.stop_all(StopReason.DRAINING, "third")
    assert (await bench.error(job)).message == "first"


async def test_cancel_after_the_end_and_of_an_unknown_job_does_nothing() -> None:
    backend = ScriptedBackend()
    bench = Bench(backend)
    job, run = await running(bench, backend)
    run.answer(b"x")
    await bench.end(job)
    bench.jobs.cancel(job.job_id, "too late")
    bench.jobs.cancel(b"?" * 16, "never heard of")
    assert isinstance(await bench.end(job), JobResult)


async def test_cancel_that_crosses_the_end_leaves_the_result() -> None:
    backend = ScriptedBackend()
    bench = Bench(backend)
    job, run = await running(bench, backend)
    run.answer(b"x")
    await asyncio.sleep(0)  # the task has ended, its callback has not run
    bench.jobs.cancel(job.job_id, "crossing")
    assert isinstance(await bench.end(job), JobResult)


async def test_what_an_adapter_raises_while_it_is_stopped_is_not_the_reason() -> None:
    # A cancelled job once ended with `backend_unreachable`, a fault of the provider.
    backend = ScriptedBackend()
    backend.swallow_cancel = Transport("the connection was closed")
    bench = Bench(backend)
    job, _ = await running(bench, backend)
    bench.jobs.cancel(job.job_id, "the client went away")
    error = await bench.error(job)
    assert (error.code, error.message) == ("cancelled", "the client went away")


async def test_stop_all_ends_every_job_with_the_reason() -> None:
    backend = ScriptedBackend()
    bench = Bench(backend)
    jobs = [(await running(bench, backend))[0] for _ in range(3)]
    bench.jobs.stop_all(StopReason.DRAINING, "no time left")
    ends = [await bench.error(job) for job in jobs]
    assert {(end.code, end.message) for end in ends} == {("draining", "no time left")}


async def test_a_late_read_of_a_cancelled_transport_changes_nothing() -> None:
    backend = ScriptedBackend()
    bench = Bench(backend)
    job, run = await running(bench, backend)
    run.start()
    bench.jobs.cancel(job.job_id, "")
    await bench.jobs.wait_until_idle()
    run.send(b"late")
    assert bench.data(job) == b""
    assert (await bench.error(job)).total_bytes == 0


@in_virtual_time
async def test_the_deadline_ends_a_job() -> None:
    backend = ScriptedBackend()
    bench = Bench(backend)
    began = now()
    job = new_job(deadline_ms=90_000)
    bench.jobs.offer(job)
    run = await backend.next_run()
    run.start()
    run.send(b"part")
    error = await bench.error(job)
    assert (error.code, error.total_bytes, error.retryable) == ("deadline_exceeded", 4, False)
    assert "90000 ms" in error.message
    assert run.cancelled.is_set()
    assert now() - began == pytest.approx(90)


async def test_a_deadline_that_has_passed_already() -> None:
    bench = Bench(ScriptedBackend())
    job = new_job(deadline_ms=0)
    bench.jobs.offer(job)
    assert (await bench.error(job)).code == "deadline_exceeded"


@in_virtual_time
async def test_the_deadline_is_the_reason_whatever_the_adapter_makes_of_it() -> None:
    backend = ScriptedBackend()
    backend.swallow_cancel = Transport("the connection was closed")
    bench = Bench(backend)
    job = new_job(deadline_ms=1000)
    bench.jobs.offer(job)
    assert (await bench.error(job)).code == "deadline_exceeded"


# --- any order ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
async def test_exactly_one_end_per_job_whatever_happens_when(seed: int) -> None:
    dice = random.Random(seed)
    backends = [ScriptedBackend(name, max_concurrent=4) for name in ("a", "b")]
    bench = Bench(*backends, max_concurrent=6)
    jobs: list[Job] = []
    failures = [
        Unreachable("no"),
        BadStatus(500, b"", ErrorCode.BACKEND_ERROR),
        BadStatus(422, b"", ErrorCode.BAD_REQUEST),
    ]

    def some_run() -> ScriptedRun | None:
        runs = [one for backend in backends for one in backend.runs if not one.outcome.done()]
        return dice.choice(runs) if runs else None

    for _ in range(150):
        match dice.choice(["offer", "offer", "again", "answer", "fail", "cancel", "step", "pump"]):
            case "offer":
                jobs.append(new_job(dice.choice(["m", "m", "m", "unknown"])))
                bench.jobs.offer(jobs[-1])
            case "again" if jobs:
                bench.jobs.offer(dice.choice(jobs))
            case "answer" if run := some_run():
                run.answer(b"x" * dice.randrange(1, 100))
            case "fail" if run := some_run():
                run.fail(dice.choice([*failures, RuntimeError("bug")]))
            case "cancel" if jobs:
                bench.jobs.cancel(dice.choice(jobs).job_id, "dice")
            case "step":
                await asyncio.sleep(0)
            case "pump":
                bench.pump(acknowledge=dice.random() < 0.7)
        on_backends = [bench.serving.running[one.id] for one in backends]
        assert all(0 <= count <= 4 for count in on_backends)
        # A job that has just failed for good has left its backend, and ends a turn later.
        assert sum(on_backends) <= bench.jobs.in_flight <= 6
        assert 0 <= bench.jobs.queued <= bench.jobs.in_flight
    bench.jobs.stop_all(StopReason.DRAINING, "the end of the test")
    await bench.jobs.wait_until_idle()
    assert len(bench.records) == len(jobs)
    assert [len(bench.ends(job)) for job in jobs] == [1] * len(jobs)
    assert [bench.serving.running[one.id] for one in backends] == [0, 0]
    told = [what for _, what, _ in bench.serving.told]
    assert told.count("started") == len(told) / 2, "every attempt has one outcome"
    assert told.count("started") == sum(one.attempts for one in bench.records)
