"""The limit of tokens per minute: which jobs count against it, and how many tokens."""

import asyncio

import pytest

from provider_agent.adapters.base import (
    BadStatus,
    ResponseOutcome,
    Transport,
    Unreachable,
    Usage,
)
from provider_agent.agent.backends.routing import RefusalReason
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import JobResult
from tests.kit.jobs import new_job, submit_job
from tests.kit.jobs_harness import JobsHarness, start_job
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.virtual_time import in_virtual_time


def status(number: int, code: ErrorCode = ErrorCode.BACKEND_ERROR) -> BadStatus:
    return BadStatus(number, b"", code)


def two_backends() -> tuple[ScriptedBackend, ScriptedBackend]:
    return ScriptedBackend("a"), ScriptedBackend("b")


@in_virtual_time
async def test_the_agents_token_limit_refuses_jobs_until_it_refills() -> None:
    backend = ScriptedBackend("a")
    harness = JobsHarness(backend, tokens_per_minute=600)
    job, run = await start_job(harness, backend)
    run.start()
    run.finish(input_tokens=400, output_tokens=250)
    await harness.end(job)
    refused = new_job()
    submit_job(harness.jobs, refused)
    error = harness.refusal(refused)
    assert (error.code, error.retryable) == ("out_of_capacity", True)
    assert "tokens per minute" in error.message
    assert harness.records[-1].refusal is RefusalReason.TOKEN_LIMIT
    assert error.retry_after_ms == pytest.approx(5100)
    await asyncio.sleep(5.1)
    job, run = await start_job(harness, backend)
    run.answer(b"x")
    assert isinstance(await harness.end(job), JobResult)


async def test_tokens_of_a_cancelled_job_count_against_the_limit() -> None:
    backend = ScriptedBackend("a")
    harness = JobsHarness(backend, tokens_per_minute=600)
    job, run = await start_job(harness, backend)
    run.start()
    run.send(b"part")
    run.reported = ResponseOutcome(Usage(400, 250))
    harness.jobs.cancel(job.job_id, "")
    await harness.end(job)
    assert harness.pool.outcomes[-1] == ("a", "abandoned", 650)
    refused = new_job()
    submit_job(harness.jobs, refused)
    assert harness.refusal(refused).code == "out_of_capacity"


async def test_tokens_of_every_failed_attempt_count_against_the_limit() -> None:
    first, second = two_backends()
    harness = JobsHarness(first, second, tokens_per_minute=1_000_000)
    job, run = await start_job(harness, first)
    run.sink.response_ended(ResponseOutcome(Usage(905_000, 0)))
    run.fail(Transport("the connection broke"))
    retried = await second.next_run()
    retried.start()
    retried.reported = ResponseOutcome(least_input_tokens=90_000, least_output_tokens=10_000)
    retried.fail(Transport("the connection broke"))
    error = await harness.error(job)
    assert error.usage == Usage()
    # Of each attempt: the tokens at its start, and at its failure.
    assert [tokens for _, _, tokens in harness.pool.outcomes] == [0, 905_000, 0, 100_000]
    refused = new_job()
    submit_job(harness.jobs, refused)
    assert harness.refusal(refused).code == "out_of_capacity"


async def test_unknown_usage_consumes_no_tokens() -> None:
    backend = ScriptedBackend("a")
    harness = JobsHarness(backend, tokens_per_minute=10)
    for _ in range(5):
        job, run = await start_job(harness, backend)
        run.fail(Unreachable("refused"))
        await harness.end(job)
    job, run = await start_job(harness, backend)
    run.start()
    run.finish(input_tokens=None, output_tokens=None)
    assert isinstance(await harness.end(job), JobResult)
    job, _ = await start_job(harness, backend)
    harness.jobs.cancel(job.job_id, "")
    assert (await harness.error(job)).code == "cancelled"
