"""The inference server crashes during responses, and starts again."""

import asyncio

from tests.faults.scenarios.harness import scenario_harness
from tests.faults.scenarios.numbered_server import RequestSpec
from tests.faults.scenarios.scenario import Scale


async def backend_killed_and_restarted(scale: Scale) -> str:
    """Each running job ends with one error; later jobs run once the server is back."""
    async with scenario_harness(scale.rng("backend"), dialect=scale.dialect) as harness:
        specs = [RequestSpec(f"job-{n}", 24, 300, pace_s=5.0) for n in range(scale.streams // 2)]
        requests = await harness.start_streams(*specs, at_least=700)
        harness.backend_proxy.refuse()
        harness.backend_proxy.cut()
        for request in requests:
            (await request.completed()).check_failed_once(harness.server)
        refused = await harness.clients.send(RequestSpec("meanwhile")).completed()
        refused.check_failed_once(harness.server)
        await asyncio.sleep(60)
        harness.backend_proxy.listen()
        await harness.wait_for_agents()
        await harness.check_served("afterwards")
        await harness.wait_until_idle()
        assert len(harness.link_proxy.accepted_at) == 1, "the link was lost"
    return f"{len(requests)} responses failed once, HTTP {refused.status} meanwhile, then served"
