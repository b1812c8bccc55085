"""One client of many stops reading."""

import asyncio

from msgspec.structs import replace

from provider_agent.agent.config import LimitsConfig
from provider_agent.protocol.limits import KIB, MIB
from tests.faults.scenarios.clients import Clients
from tests.faults.scenarios.harness import MAX_CONCURRENT, SETTINGS, ScenarioHarness, harness
from tests.faults.scenarios.numbered_server import Order
from tests.faults.scenarios.scenario import Effort
from tests.kit.fault_proxy import FaultProxy

WINDOW_BYTES = 64 * KIB
ONE_READ_BYTES = 256 * KIB
"""What the agent may get at once from a server that it has not stopped yet."""

KERNELS_BYTES = 12 * MIB
"""What this machine's kernel may hold on the five connections from the server to the client."""


async def one_client_of_many_stops_reading(effort: Effort) -> str:
    """Its job alone fails, after the time that the operator set; the others keep going."""
    limits = LimitsConfig(max_concurrent=MAX_CONCURRENT, slow_consumer_s=30.0)
    settings = replace(SETTINGS, window_bytes=WINDOW_BYTES)
    async with harness(effort.dice("stopped client"), settings, limits) as play:
        async with FaultProxy(play.clients.port) as proxy, Clients(proxy.port) as apart:
            stopped = apart.buy(Order("stopped", 1_000_000, 4000))
            await play.server.streaming("stopped", at_least=50_000)
            proxy.connections[0].downstream.stall()
            others = [
                play.clients.buy(Order(f"job-{n}", 20, 300, pace_s=5.0))
                for n in range(effort.clients - 1)
            ]
            await asyncio.sleep(20)
            held = max(stream.written - stream.acked for stream in play.service.outbox.streams)
            assert held < WINDOW_BYTES + ONE_READ_BYTES, f"{held} bytes held for one job"
            run = play.server.only_run("stopped")
            await run.abandoned.wait()
            taken = len(run.sent) - len(stopped.data)
            for purchase in others:
                (await purchase.done()).check_complete(play.server)
            assert ended_with(play, "slow_consumer") == 1, "its job ended with another code"
            proxy.connections[0].resume()
            (await stopped.done()).check_not_taken_for_whole(play.server)
        await play.idle()
        assert taken < 2 * WINDOW_BYTES + KERNELS_BYTES, f"{taken} bytes for one that takes none"
        assert len(play.link.accepted_at) == 1, "the link suffered"
    return f"{len(others)} complete, one slow_consumer, for whom the agent held {held // KIB} KiB"


def ended_with(play: ScenarioHarness, code: str) -> float:
    """How many jobs of the agent ended with a code."""
    labels = {"code": code, "format": "openai", "kind": "openai_compatible"}
    return play.service.metrics.registry.get_sample_value("provider_agent_jobs_total", labels) or 0
