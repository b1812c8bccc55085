"""Requests that crash servers, and failover after a server has died."""

import asyncio

import pytest

from provider_agent.adapters.base import BackendHealth, Job, Transport
from provider_agent.agent.jobs.poison_requests import (
    MAX_DEATHS,
    MAX_REMEMBERED,
    REMEMBERED_S,
    PoisonRequest,
    PoisonRequests,
    request_key,
)
from provider_agent.protocol.frames import JobResult
from tests.kit.fake_clock import FakeClock
from tests.kit.jobs import new_job, submit_job
from tests.kit.jobs_harness import JobsHarness, start_job
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.virtual_time import in_virtual_time

DOWN = BackendHealth(False, last_error="connection refused")


def backends(count: int) -> list[ScriptedBackend]:
    return [ScriptedBackend(name) for name in "abcdef"[:count]]


async def crash(backend: ScriptedBackend) -> None:
    """Let the backend's server die while it runs a job."""
    run = await backend.next_run()
    backend.reported_health = DOWN
    run.fail(Transport("the server closed the connection without a response"))


def submit(harness: JobsHarness, request: bytes) -> Job:
    job = new_job(request=request)
    submit_job(harness.jobs, job)
    return job


# --- the memory -----------------------------------------------------------------------------------


def test_request_is_refused_after_three_deaths_until_it_is_forgotten() -> None:
    clock = FakeClock()
    poison = PoisonRequests(clock)
    deadly, harmless = request_key(b"deadly"), request_key(b"harmless")
    for _ in range(MAX_DEATHS):
        poison.check(deadly)
        poison.add_death(deadly, "a", poison.recorded)
        clock.now += 60
    poison.check(harmless)
    with pytest.raises(PoisonRequest, match="3 servers died"):
        poison.check(deadly)
    clock.now += REMEMBERED_S + 1
    poison.check(deadly)


def test_memory_is_bounded_and_drops_the_request_with_the_oldest_death() -> None:
    poison = PoisonRequests(FakeClock())
    for number in range(MAX_REMEMBERED + 1):
        for _ in range(MAX_DEATHS):
            poison.add_death(number, "a", poison.recorded)
    poison.check(0)
    with pytest.raises(PoisonRequest):
        poison.check(1)
    assert repr(poison) == f"<PoisonRequests remembered={MAX_REMEMBERED}>"


# --- jobs -----------------------------------------------------------------------------------------


async def test_request_that_kills_three_servers_is_not_sent_to_a_fourth() -> None:
    servers = backends(4)
    harness = JobsHarness(*servers)
    job = submit(harness, b'{"grammar":"((("}')
    for server in servers[:3]:
        await crash(server)

    error = await harness.error(job)
    assert (error.code, error.retryable) == ("bad_request", False)
    again = submit(harness, b'{"grammar":"((("}')
    assert (await harness.error(again)).code == "bad_request"
    assert servers[3].runs == []

    harness.pool.unavailable.update("abc")
    other = submit(harness, b'{"messages":[]}')
    (await servers[3].next_run()).answer(b"fine")
    assert isinstance(await harness.end(other), JobResult)


async def test_deaths_of_several_jobs_with_one_request_count_together() -> None:
    servers = backends(2)
    harness = JobsHarness(*servers)
    harness.pool.unavailable.add("b")
    for _ in range(MAX_DEATHS):
        job = submit(harness, b"{}")
        await crash(servers[0])
        await harness.error(job)

    assert (await harness.error(submit(harness, b"{}"))).code == "bad_request"
    assert len(servers[0].runs) == MAX_DEATHS


async def test_one_death_counts_once_for_all_jobs_with_one_request() -> None:
    # In an earlier version, after a server with several jobs of one request had restarted, these
    # jobs ended with `bad_request`.
    first, second = backends(2)
    harness = JobsHarness(first, second)
    harness.pool.unavailable.add("b")
    jobs = [submit(harness, b"{}") for _ in range(MAX_DEATHS + 1)]
    runs = [await first.next_run() for _ in jobs]
    harness.pool.unavailable.clear()
    first.reported_health = DOWN
    for run in runs:
        run.fail(Transport("reset"))
    for _ in jobs:
        (await second.next_run()).answer(b"fine")

    for job in jobs:
        assert isinstance(await harness.end(job), JobResult)


async def test_lost_connection_of_a_living_server_is_no_death() -> None:
    (server,) = backends(1)
    harness = JobsHarness(server)
    for _ in range(MAX_DEATHS + 1):
        job = submit(harness, b"{}")
        (await server.next_run()).fail(Transport("reset"))
        assert (await harness.error(job)).code == "backend_unreachable"


async def test_job_of_a_dead_server_fails_over_only_to_a_server_that_answers() -> None:
    first, dead, living = backends(3)
    harness = JobsHarness(first, dead, living)
    dead.reported_health = DOWN  # the pool still offers it: its last check was before its death
    job = submit(harness, b"{}")
    await crash(first)
    (await living.next_run()).answer(b"fine")

    assert isinstance(await harness.end(job), JobResult)
    assert dead.runs == []


async def test_job_ends_if_no_other_server_answers() -> None:
    first, dead = backends(2)
    harness = JobsHarness(first, dead)
    dead.reported_health = DOWN
    job = submit(harness, b"{}")
    await crash(first)

    assert (await harness.error(job)).code == "backend_unreachable"
    assert dead.runs == []


@in_virtual_time
async def test_job_can_be_cancelled_while_the_failed_server_is_checked() -> None:
    first, second = backends(2)
    harness = JobsHarness(first, second)
    job, run = await start_job(harness, first)
    first.gate.clear()
    run.fail(Transport("reset"))
    await asyncio.sleep(0.1)
    assert first.checks
    harness.jobs.cancel(job.job_id, "the client disconnected")

    assert (await harness.error(job)).code == "cancelled"
    assert second.runs == []


@in_virtual_time
async def test_death_during_a_stream_counts() -> None:
    servers = backends(1)
    harness = JobsHarness(*servers)
    for _ in range(MAX_DEATHS):
        servers[0].reported_health = BackendHealth(True, 1.0)
        job = submit(harness, b"{}")
        run = await servers[0].next_run()
        run.start()
        run.send(b"the beginning")
        servers[0].reported_health = DOWN
        run.fail(Transport("the connection broke in the middle of the response"))
        await harness.error(job)

    assert (await harness.error(submit(harness, b"{}"))).code == "bad_request"


async def test_death_of_a_server_is_logged_with_job_and_backend(
    caplog: pytest.LogCaptureFixture,
) -> None:
    servers = backends(1)
    harness = JobsHarness(*servers)
    job = submit(harness, b'{"messages":"a private question"}')
    await crash(servers[0])
    await harness.error(job)

    (record,) = [one for one in caplog.records if one.message == "server died during a job"]
    fields = vars(record)["fields"]
    assert (fields["job"], fields["backend"]) == (job.job_id.hex(), "a")
    assert "private" not in repr(fields)
