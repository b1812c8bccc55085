"""The link has little bandwidth and a high latency."""

import asyncio

from tests.faults.scenarios.clients import ScenarioRequest
from tests.faults.scenarios.harness import scenario_harness
from tests.faults.scenarios.numbered_server import RequestSpec
from tests.faults.scenarios.scenario import Scale
from tests.kit.virtual_time import now

BYTES_PER_S = 100_000
DELAY_S = 0.3
EVENTS = 10
PACE_S = 3.0

MAX_LATENESS_S = 5.0
"""How much later than on an idle link a small job may end: the network's own buffers."""


async def slow_distant_link(scale: Scale) -> str:
    """One job produces more than the link carries; small jobs keep their pace beside it."""
    async with scenario_harness(scale.rng("slow")) as harness:
        for pipe in harness.link.connections[0].pipes:
            pipe.delay_s = DELAY_S
            pipe.bytes_per_s = BYTES_PER_S
        (greedy,) = await harness.start_streams(RequestSpec("greedy", 1000, 4000), at_least=400_000)
        started_at = now()
        small = [
            harness.clients.send(RequestSpec(f"small-{n}", EVENTS, 200, PACE_S)) for n in range(3)
        ]
        late = max(await asyncio.gather(*(_lateness(one, started_at) for one in small)))
        assert not greedy.task or not greedy.task.done(), "the link was not busy all the time"
        assert late < MAX_LATENESS_S, f"small jobs were {late:.1f} s late"
        await harness.check_all_complete([greedy, *small])
        took = now() - started_at
        await harness.wait_until_idle()
        assert len(harness.link.accepted_at) == 1, "the link was lost"
    return f"4 MB in {took:.0f} s, small jobs {late:.1f} s late at most"


async def _lateness(request: ScenarioRequest, started_at: float) -> float:
    await request.completed()
    return now() - started_at - EVENTS * PACE_S
