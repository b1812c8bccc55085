"""Scenarios in which an agent stops, as after SIGTERM, or is replaced by a newer process."""

import asyncio

from provider_agent.agent.config import LimitsConfig
from provider_agent.agent.service import EXIT_OK, EXIT_REFUSED, EXIT_UNDELIVERED
from provider_agent.protocol.frames import Draining, JobError, JobResult
from tests.faults.scenarios.clients import ScenarioRequest
from tests.faults.scenarios.harness import (
    MAX_CONCURRENT,
    ScenarioHarness,
    scenario_harness,
    wait_until,
)
from tests.faults.scenarios.numbered_server import RequestSpec
from tests.faults.scenarios.scenario import Scale
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.scripted_coordinator import ScriptedCoordinator
from tests.kit.virtual_time import now

DRAIN_S = 300.0

SLOW_BYTES_PER_S = 100_000

LARGE_JOBS = 8
"""How many jobs have a large response: about 700 kB, which the server sends without a pause."""


async def agent_stops_with_running_jobs(scale: Scale) -> str:
    """Running jobs finish; new jobs run on another agent."""
    async with scenario_harness(
        scale.rng("stop"), limits=_limits(DRAIN_S), dialect=scale.dialect
    ) as harness:
        requests = await _start_streams(harness, scale.streams // 2)
        stopping = harness.agents[0]
        second = await harness.add_agent()
        await harness.wait_for_agents(2)
        stopping.service.stop()
        new_jobs = [harness.clients.send(RequestSpec(f"new-{n}", 5, 300)) for n in range(4)]
        await harness.check_all_complete([*new_jobs, *requests])
        assert await stopping.task == EXIT_OK
        assert not second.task.done()
        await harness.wait_until_idle()
    return f"{len(requests)} finished, {len(new_jobs)} new jobs ran on the other agent, exit code 0"


async def agent_stops_while_the_link_is_down(scale: Scale) -> str:
    """The agent reconnects, resumes its session, finishes everything, and exits."""
    async with scenario_harness(
        scale.rng("stop down"), limits=_limits(DRAIN_S), dialect=scale.dialect
    ) as harness:
        requests = await _start_streams(harness, scale.streams // 2)
        harness.link_proxy.refuse()
        harness.link_proxy.cut()
        await asyncio.sleep(5)
        harness.service.stop()
        await asyncio.sleep(20)
        harness.link_proxy.listen()
        await harness.check_all_complete(requests)
        assert await harness.agents[0].task == EXIT_OK
    return f"{len(requests)} finished after 25 s without a link, exit code 0"


async def agent_stops_on_a_slow_link(scale: Scale) -> str:
    """The responses wait for the slow link, not for the server; the drain delivers all of them."""
    async with scenario_harness(
        scale.rng("stop slow"), limits=_limits(DRAIN_S), dialect=scale.dialect
    ) as harness:
        for pipe in harness.link_proxy.connections[-1].pipes:
            pipe.bytes_per_s = SLOW_BYTES_PER_S
        requests = await _start_large_streams(harness)
        stopped_at = now()
        harness.service.stop()
        await harness.check_all_complete(requests)
        assert await harness.agents[0].task == EXIT_OK
        took = now() - stopped_at
    return f"{len(requests)} delivered within {took:.0f} s, exit code 0"


async def agent_stops_on_a_stalled_link(scale: Scale) -> str:
    """The watchdog closes the link, and the drain delivers all responses over the next link."""
    async with scenario_harness(
        scale.rng("stop stalled"), limits=_limits(DRAIN_S), dialect=scale.dialect
    ) as harness:
        requests = await _start_large_streams(harness)
        harness.link_proxy.connections[-1].upstream.stall()
        stopped_at = now()
        harness.service.stop()
        await harness.check_all_complete(requests)
        assert await harness.agents[0].task == EXIT_OK
        took = now() - stopped_at
    return f"{len(requests)} delivered within {took:.0f} s, exit code 0"


async def jobs_outlast_the_drain_timeout(scale: Scale) -> str:
    """Jobs that outlast the drain timeout end with one error each, and their runs are cancelled."""
    async with scenario_harness(
        scale.rng("stop short"), limits=_limits(20.0), dialect=scale.dialect
    ) as harness:
        requests = await _start_streams(harness, scale.streams // 2)
        stopped_at = now()
        harness.service.stop()
        assert await harness.agents[0].task == EXIT_UNDELIVERED
        took = now() - stopped_at
        for request in requests:
            await request.completed()
            if request.errors:
                request.check_failed_once(harness.server)
            else:
                request.check_complete(harness.server)
        failed = sum(bool(request.errors) for request in requests)
        finished = len(requests) - failed
        assert finished > 0
        assert failed > 0
        assert not harness.server.active
    return f"{finished} finished, {failed} ended with one error after {took:.0f} s, exit code 75"


async def agent_waits_for_acknowledgement_before_exit(scale: Scale) -> str:
    """A stopping agent refuses a new job, and exits only after its ends are acknowledged."""
    backend = ScriptedBackend()
    async with ScriptedCoordinator() as coordinator, RunningAgent(coordinator, backend) as agent:
        peer = await agent.connected()
        peer.acknowledges = False
        job = new_job()
        await peer.send_jobs(job)
        (await backend.next_run()).answer(b"all of it")
        assert isinstance(await peer.end(job.job_id), JobResult)
        agent.service.stop()
        await peer.next(Draining)
        refused = new_job()
        await peer.send_jobs(refused)
        refusal = await peer.error(refused.job_id)
        assert isinstance(refusal, JobError)
        assert (refusal.code, refusal.retryable) == ("draining", True)
        assert not agent.task.done(), "the agent exited before the end was acknowledged"
        await peer.send_pending_frames()
        assert await agent.task == EXIT_OK
        assert len(backend.runs) == 1
    return "job refused with draining, exit code 0 after the acknowledgement"


async def agent_replaced_by_a_newer_process(scale: Scale) -> str:
    """In a rolling update, two processes use the same key; only the newer receives new jobs."""
    async with scenario_harness(scale.rng("newer"), dialect=scale.dialect) as harness:
        requests = await _start_streams(harness, scale.streams // 2)
        older = harness.agents[0]
        newer = await harness.add_agent(identity=older.identity, replace=True)
        await wait_until(newer.service.uplink.connected.is_set)
        await harness.wait_for_agents()
        new_jobs = [
            await harness.clients.send(RequestSpec(f"new-{n}", 5, 300)).completed()
            for n in range(4)
        ]
        await harness.check_all_complete([*new_jobs, *requests])
        assert newer.service.jobs.completed == len(new_jobs)
        assert await older.task == EXIT_REFUSED
        await harness.wait_until_idle()
        assert not newer.task.done()
    return f"{len(requests)} finished on the older process, {len(new_jobs)} ran on the newer one"


async def _start_large_streams(harness: ScenarioHarness) -> list[ScenarioRequest]:
    specs = [RequestSpec(f"large-{n}", 600, 1000) for n in range(LARGE_JOBS)]
    return await harness.start_streams(*specs, at_least=1)


def _limits(drain_timeout_s: float) -> LimitsConfig:
    return LimitsConfig(max_concurrent=MAX_CONCURRENT, drain_timeout_s=drain_timeout_s)


async def _start_streams(harness: ScenarioHarness, count: int) -> list[ScenarioRequest]:
    """Start streams that take between 15 s and two minutes."""
    specs = [RequestSpec(f"job-{n}", 3 + n * 20 // count, 300, pace_s=5.0) for n in range(count)]
    return await harness.start_streams(*specs, at_least=300)
