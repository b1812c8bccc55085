"""Clocks jump: the machine was suspended, or the wall clock was set."""

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.faults.scenarios.clients import ScenarioRequest
from tests.faults.scenarios.harness import ScenarioHarness, scenario_harness, wait_until
from tests.faults.scenarios.numbered_server import RequestSpec
from tests.faults.scenarios.scenario import Scale
from tests.kit.virtual_time import VirtualTimeLoop

SHORT_SUSPEND_S = 20.0
"""Shorter than the time for which a detached session is kept."""

HOUR_S = 3600.0
YEAR_S = 365 * 24 * HOUR_S


async def machine_suspended_briefly(scale: Scale) -> str:
    """The sessions still exist, so every stream completes."""
    async with scenario_harness(scale.rng("nap"), dialect=scale.dialect) as harness:
        requests = await _start_streams(harness)
        await _suspend(harness, SHORT_SUSPEND_S)
        await harness.check_all_complete(requests)
        await harness.wait_until_idle()
    return f"{len(requests)} complete"


async def machine_suspended_for_an_hour(scale: Scale) -> str:
    """All timers expire at once, and the network has dropped the connection."""
    async with scenario_harness(scale.rng("sleep"), dialect=scale.dialect) as harness:
        requests = await _start_streams(harness)
        await _suspend(harness, HOUR_S)
        for request in requests:
            await request.completed()
            if request.errors:
                request.check_failed_once(harness.server)
            else:
                request.check_complete(harness.server)
        await wait_until(harness.service.uplink.connected.is_set)
        await harness.wait_for_agents()
        await harness.check_served("afterwards")
        await harness.wait_until_idle()
    failed = sum(request.errors for request in requests)
    return f"{len(requests) - failed} complete, {failed} failed once, agent serves"


async def _suspend(harness: ScenarioHarness, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    harness.link_proxy.blackhole()
    loop.jump(seconds)
    await asyncio.sleep(0)


async def _start_streams(harness: ScenarioHarness) -> list[ScenarioRequest]:
    specs = [RequestSpec(f"job-{n}", 24, 300, pace_s=5.0) for n in range(6)]
    return await harness.start_streams(*specs, at_least=700)


async def wall_clock_set_back_and_forth(scale: Scale) -> str:
    """Each reading of the wall clock is wrong by up to a year; no decision depends on it."""
    rng = scale.rng("wall clock")
    with _random_wall_clock(rng):
        async with scenario_harness(rng, dialect=scale.dialect) as harness:
            requests = await _start_streams(harness)
            await asyncio.sleep(20)
            await harness.reconnect()
            await harness.check_all_complete(requests)
            await harness.wait_until_idle()
    return f"{len(requests)} complete over two links"


@contextmanager
def _random_wall_clock(rng: random.Random) -> Iterator[None]:
    original = time.time
    time.time = lambda: original() + rng.uniform(-YEAR_S, YEAR_S)
    try:
        yield
    finally:
        time.time = original
