"""The coordinator crashes, restarts, or drains."""

import asyncio

from msgspec.structs import replace

from tests.faults.scenarios.clients import ScenarioRequest
from tests.faults.scenarios.harness import SETTINGS, ScenarioHarness, scenario_harness, wait_until
from tests.faults.scenarios.numbered_server import RequestSpec
from tests.faults.scenarios.scenario import Scale


async def coordinator_replaced_without_its_sessions(scale: Scale) -> str:
    """A crash: the new coordinator welcomes the agent and resumes none of its jobs."""
    async with scenario_harness(scale.rng("killed"), dialect=scale.dialect) as harness:
        requests = await _start_streams(harness, scale.streams // 4)
        old = await harness.replace_coordinator()
        harness.link_proxy.cut()
        await harness.wait_for_agents()
        for request in requests:
            await harness.server.only_run(request.spec.name).abandoned.wait()
        assert harness.service.jobs.in_flight == 0
        await _check_agent_serves(harness)
        await old.stop()
        for request in requests:
            (await request.completed()).check_failed_once(harness.server)
    return f"{len(requests)} orphaned jobs cancelled at the server"


async def coordinator_stops_and_starts_again(scale: Scale) -> str:
    """An orderly stop that does not wait for running jobs."""
    async with scenario_harness(scale.rng("stopped"), dialect=scale.dialect) as harness:
        requests = await _start_streams(harness, scale.streams // 4)
        old = await harness.replace_coordinator()
        await old.stop()
        for request in requests:
            (await request.completed()).check_failed_once(harness.server)
            await harness.server.only_run(request.spec.name).abandoned.wait()
        await harness.wait_for_agents()
        await _check_agent_serves(harness)
        await harness.wait_until_idle()
    return f"{len(requests)} responses failed once, their runs cancelled"


async def coordinator_drains_while_jobs_run(scale: Scale) -> str:
    """Running jobs finish at the draining coordinator; then the agent connects to the new one."""
    settings = replace(SETTINGS, drain_s=3600.0)
    async with scenario_harness(scale.rng("drain"), settings, dialect=scale.dialect) as harness:
        requests = await _start_streams(harness, scale.streams // 4)
        old = await harness.replace_coordinator()
        stopping = asyncio.create_task(old.stop(), name="old coordinator stops")
        await harness.check_all_complete(requests)
        await stopping
        await harness.wait_for_agents()
        await _check_agent_serves(harness)
        await harness.wait_until_idle()
    return f"{len(requests)} jobs finished at the old one"


async def _start_streams(harness: ScenarioHarness, count: int) -> list[ScenarioRequest]:
    """Start streams of one to three minutes."""
    specs = [RequestSpec(f"job-{n}", 12 + n * 24 // count, 300, pace_s=5.0) for n in range(count)]
    return await harness.start_streams(*specs, at_least=700)


async def _check_agent_serves(harness: ScenarioHarness) -> None:
    await wait_until(harness.service.uplink.connected.is_set)
    await harness.check_served("afterwards")
