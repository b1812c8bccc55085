"""Completed streams measure the speed of their model."""

import asyncio

import pytest

from provider_agent.adapters.base import ResponseOutcome, Unreachable, Usage
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.backends.discovery import Discovery
from provider_agent.agent.backends.model_use import JobTiming, ModelUsage
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.jobs.running import Jobs
from tests.kit.discovery_harness import find_monitor
from tests.kit.jobs import new_job, submit_job
from tests.kit.jobs_harness import JobsHarness, start_job
from tests.kit.scripted_backend import ScriptedBackend, ScriptedRun
from tests.kit.virtual_time import in_virtual_time, now


async def respond(run: ScriptedRun, content_type: str = "text/event-stream") -> None:
    """Send the first byte after two seconds, and return three seconds later."""
    await asyncio.sleep(2)
    run.start(content_type=content_type)
    run.send(b"x")
    await asyncio.sleep(3)


def complete(run: ScriptedRun) -> None:
    run.reported = ResponseOutcome(Usage(1000, 61, cached_tokens=200))
    run.outcome.set_result(None)


@in_virtual_time
async def test_the_timing_of_a_stream_counts_from_its_last_attempt() -> None:
    first, second = ScriptedBackend("a"), ScriptedBackend("b")
    harness = JobsHarness(first, second)
    _, failing = await start_job(harness, first)
    await asyncio.sleep(10)
    failing.fail(Unreachable("refused"))
    run = await second.next_run()
    await respond(run)
    complete(run)
    await harness.jobs.wait_until_idle()

    assert harness.pool.timings == [JobTiming(1000, 200, 61, 2.0, 5.0)]


@pytest.mark.parametrize("kind", ["json", "failed", "cancelled", "empty"])
@in_virtual_time
async def test_only_completed_streams_are_measured(kind: str) -> None:
    backend = ScriptedBackend("a")
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    if kind != "empty":
        await respond(run, "application/json" if kind == "json" else "text/event-stream")
    if kind == "failed":
        run.fail(Unreachable("reset"))
    elif kind == "cancelled":
        harness.jobs.cancel(job.job_id, "")
    else:
        complete(run)
    await harness.jobs.wait_until_idle()

    assert harness.pool.timings == []


@in_virtual_time
async def test_the_speed_is_recorded_for_the_backend_that_executed_the_job() -> None:
    backend = ScriptedBackend("a")
    discovery = Discovery(Backends([backend], {}, []), lambda: None, clock=now)
    jobs = Jobs(discovery, Outbox(), 4, lambda _record: None, now)
    await discovery.check_all()
    submit_job(jobs, new_job("m"))
    run = await backend.next_run()
    use = find_monitor(discovery, "a").model_use
    assert use.usage() == {"m": ModelUsage(1)}
    await respond(run)
    complete(run)
    await jobs.wait_until_idle()

    assert use.usage() == {"m": ModelUsage(0, 400.0, 20.0)}
