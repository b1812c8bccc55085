"""The link has little bandwidth, and may have a high latency."""

import asyncio

from provider_agent.protocol.limits import KIB, MAX_REQUEST_BYTES, MIB
from tests.faults.scenarios.clients import ScenarioRequest
from tests.faults.scenarios.harness import scenario_harness
from tests.faults.scenarios.numbered_server import RequestSpec
from tests.faults.scenarios.scenario import FULL, Scale
from tests.kit.proxied_connection import ProxiedConnection
from tests.kit.virtual_time import now

BYTES_PER_S = 100_000
DELAY_S = 0.3
EVENTS = 10
PACE_S = 3.0

REQUEST_LINK_BYTES_PER_S = 250_000
BROKEN_LINKS = 4
"""How often the link breaks while the large request travels."""

MAX_LATENESS_S = 5.0
"""How much later than on an idle link a small job may end, because of the network's buffers."""


async def slow_distant_link(scale: Scale) -> str:
    """One job produces more than the link carries; small jobs keep their pace beside it."""
    async with scenario_harness(scale.rng("slow"), dialect=scale.dialect) as harness:
        for pipe in harness.link_proxy.connections[0].pipes:
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
        assert len(harness.link_proxy.accepted_at) == 1, "the link was lost"
    return f"4 MB in {took:.0f} s, small jobs {late:.1f} s late at most"


async def large_request_on_a_slow_link(scale: Scale) -> str:
    """A large request travels to the agent; a small job beside it keeps its pace."""
    size = scale.rounds * MAX_REQUEST_BYTES // FULL.rounds - KIB
    async with scenario_harness(scale.rng("request"), dialect=scale.dialect) as harness:
        _throttle(harness.link_proxy.connections[0])
        started_at = now()
        large = harness.clients.send(RequestSpec("large", EVENTS, 200, padding=size))
        small = harness.clients.send(RequestSpec("small", EVENTS, 200, 0.5))
        await small.completed()
        late = now() - started_at - EVENTS * 0.5
        assert "large" not in harness.server.runs, "the link was not busy all the time"
        assert late < MAX_LATENESS_S, f"the small job was {late:.1f} s late"
        await harness.check_all_complete([large, small])
        took = now() - started_at
        assert took < 2 * size / REQUEST_LINK_BYTES_PER_S, f"the large job took {took:.0f} s"
        await harness.wait_until_idle()
        assert len(harness.link_proxy.accepted_at) == 1, "the link was lost"
    return f"{size / MIB:.0f} MiB in {took:.0f} s, the small job {late:.1f} s late"


async def large_request_on_a_broken_link(scale: Scale) -> str:
    """The link breaks several times while a large request travels to the agent."""
    size = scale.rounds * MAX_REQUEST_BYTES // FULL.rounds - KIB
    rng = scale.rng("broken request")
    async with scenario_harness(rng, dialect=scale.dialect) as harness:
        _throttle(await harness.link_proxy.next_connection())
        large = harness.clients.send(RequestSpec("large", EVENTS, 200, padding=size))
        for _ in range(BROKEN_LINKS):
            await asyncio.sleep(rng.uniform(0.1, 0.2) * size / REQUEST_LINK_BYTES_PER_S)
            harness.link_proxy.cut()
            _throttle(await harness.link_proxy.next_connection())
        assert "large" not in harness.server.runs, "the request did not travel over every link"
        await harness.check_all_complete([large])
        await harness.wait_until_idle()
    return f"{size / MIB:.0f} MiB over {len(harness.link_proxy.accepted_at)} links"


def _throttle(connection: ProxiedConnection) -> None:
    for pipe in connection.pipes:
        pipe.bytes_per_s = REQUEST_LINK_BYTES_PER_S


async def _lateness(request: ScenarioRequest, started_at: float) -> float:
    """Wait for a response; return how many seconds more than its paced duration it took."""
    await request.completed()
    return now() - started_at - EVENTS * PACE_S
