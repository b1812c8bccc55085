import asyncio

import pytest

from provider_agent.adapters.base import (
    BackendSettings,
    Job,
)
from provider_agent.adapters.servers.echo import EchoBackend
from provider_agent.agent.backends.routing import RefusalReason
from provider_agent.agent.jobs.execution import StopReason
from provider_agent.agent.jobs.job_record import JobRecord
from provider_agent.agent.jobs.running import REMEMBERED_JOBS
from provider_agent.protocol.frames import (
    JobResult,
    JobStarted,
    ModelOffer,
    RequestChunk,
    Usage,
)
from tests.kit.jobs import new_job, submit_job
from tests.kit.jobs_harness import JobsHarness, start_job
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.virtual_time import in_virtual_time


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
    assert harness.records == [
        JobRecord("openai", "scripted", end, 0.01, model_id="m", streamed=True)
    ]


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
    # Sent again from the start: the bytes that have arrived are dropped.
    harness.jobs.receive_request(RequestChunk(job.job_id, 0, job.request))
    run = await backend.next_run()
    assert run.job.request == job.request
    run.answer(b"x")
    await harness.end(job)
    # Later pieces are ignored, even an empty one, which is otherwise a protocol violation.
    harness.jobs.receive_request(RequestChunk(job.job_id, 0, b"late"))
    harness.jobs.receive_request(RequestChunk(job.job_id, 0, b""))


async def test_a_job_is_in_flight_until_its_end_and_queued_until_its_first_byte() -> None:
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
    ("job", "code", "reason"),
    [
        (new_job("unknown"), "model_not_loaded", RefusalReason.NOT_SERVED),
        (new_job(wire_format="grpc"), "format_not_supported", RefusalReason.FORMAT),
        (new_job(operation="embeddings"), "format_not_supported", RefusalReason.FORMAT),
    ],
)
async def test_a_job_without_a_route_is_refused_at_once(
    job: Job, code: str, reason: RefusalReason
) -> None:
    harness = JobsHarness(ScriptedBackend())
    submit_job(harness.jobs, job)
    refusal = harness.refusal(job)
    assert (refusal.code, refusal.total_bytes, refusal.retryable) == (code, 0, True)
    assert harness.records == [JobRecord(job.format, "", refusal, None, attempts=0, refusal=reason)]


async def test_a_draining_agent_refuses_new_jobs_and_finishes_running_ones() -> None:
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    harness.jobs.set_accepting(accepting=False)
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
    # In an earlier version, the bounded memory of job ids forgot a running job. The same job,
    # submitted again, was then executed a second time.
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


async def test_record_of_a_refused_job_names_only_offered_models() -> None:
    # A job's model is the client's text. As a metric's label it must be one of the agent's models.
    backend = ScriptedBackend()
    harness = JobsHarness(backend, max_concurrent=1)
    harness.jobs.set_prices([ModelOffer("m", [], [], None, True, "vllm", 1)])
    job, run = await start_job(harness, backend)
    for model_id in ("m", "not offered"):
        submit_job(harness.jobs, new_job(model_id))
    found = [(one.model_id, one.refusal) for one in harness.records]
    assert found == [("m", RefusalReason.AGENT_FULL), ("", RefusalReason.AGENT_FULL)]
    assert harness.jobs.queued == 1
    run.start()
    run.send(b"x")
    assert harness.jobs.queued == 0
    run.finish()
    await harness.end(job)
