"""One client of many stops reading."""

import asyncio

from msgspec.structs import replace

from provider_agent.agent.config import LimitsConfig
from provider_agent.protocol.limits import KIB, MIB
from tests.faults.scenarios.clients import Clients
from tests.faults.scenarios.harness import (
    MAX_CONCURRENT,
    SETTINGS,
    ScenarioHarness,
    scenario_harness,
)
from tests.faults.scenarios.numbered_server import RequestSpec
from tests.faults.scenarios.scenario import Scale
from tests.kit.fault_proxy import FaultProxy

WINDOW_BYTES = 64 * KIB

ONE_READ_BYTES = 256 * KIB
"""The most that the agent reads at once from a backend that it has not paused yet."""

KERNEL_BUFFERS_BYTES = 12 * MIB
"""The most that the kernel buffers between the inference server and the stalled proxy: five
connections in a row, by way of the backend proxy, the agent, the link proxy and the coordinator."""


async def one_client_of_many_stops_reading(scale: Scale) -> str:
    """Only the job of that client fails, after `slow_consumer_s`; all others complete."""
    limits = LimitsConfig(max_concurrent=MAX_CONCURRENT, slow_consumer_s=30.0)
    settings = replace(SETTINGS, window_bytes=WINDOW_BYTES)
    async with scenario_harness(scale.rng("stopped client"), settings, limits) as harness:
        async with FaultProxy(harness.clients.port) as proxy, Clients(proxy.port) as slow_clients:
            stopped = slow_clients.send(RequestSpec("stopped", 1_000_000, 4000))
            await harness.server.wait_for_bytes("stopped", at_least=50_000)
            proxy.connections[0].downstream.stall()
            others = [
                harness.clients.send(RequestSpec(f"job-{n}", 20, 300, pace_s=5.0))
                for n in range(scale.clients - 1)
            ]
            await asyncio.sleep(20)
            held = max(stream.written - stream.acked for stream in harness.service.outbox.streams)
            assert held < WINDOW_BYTES + ONE_READ_BYTES, f"{held} bytes held for one job"
            run = harness.server.only_run("stopped")
            await run.abandoned.wait()
            unread = len(run.sent) - len(stopped.data)
            await harness.check_all_complete(others)
            assert _ended_with(harness, "slow_consumer") == 1, (
                "the job of that client ended with another code"
            )
            proxy.connections[0].resume()
            (await stopped.completed()).check_visibly_incomplete(harness.server)
        await harness.wait_until_idle()
        assert unread < 2 * WINDOW_BYTES + KERNEL_BUFFERS_BYTES, f"{unread} bytes for one client"
        assert len(harness.link_proxy.accepted_at) == 1, "the link was lost"
    return f"{len(others)} complete, one slow_consumer, for which the agent held {held // KIB} KiB"


def _ended_with(harness: ScenarioHarness, code: str) -> int:
    """Return the number of the agent's jobs that ended with a code."""
    return harness.service.status().totals.jobs.get(code, 0)
