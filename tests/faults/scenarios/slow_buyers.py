"""One buyer of many stops reading."""

import asyncio

from msgspec.structs import replace

from agent.config import LimitsConfig
from protocol.limits import KIB, MIB
from tests.faults.scenarios.buyers import Buyers
from tests.faults.scenarios.numbered_server import Order
from tests.faults.scenarios.scenario import Effort
from tests.faults.scenarios.stage import MAX_CONCURRENT, SETTINGS, Stage, stage
from tests.kit.network import Cable

WINDOW_BYTES = 64 * KIB
ONE_READ_BYTES = 256 * KIB
"""What the agent may get at once from a server that it has not stopped yet."""

KERNELS_BYTES = 12 * MIB
"""What this machine's kernel may hold on the five connections from the server to the buyer."""


async def one_buyer_of_many_stops_reading(effort: Effort) -> str:
    """Its job alone fails, after the time that the operator set; the others keep going."""
    limits = LimitsConfig(max_concurrent=MAX_CONCURRENT, slow_consumer_s=30.0)
    settings = replace(SETTINGS, window_bytes=WINDOW_BYTES)
    async with stage(effort.dice("stopped buyer"), settings, limits) as play:
        async with Cable(play.buyers.port) as cable, Buyers(cable.port) as apart:
            stopped = apart.buy(Order("stopped", 1_000_000, 4000))
            await play.server.streaming("stopped", at_least=50_000)
            cable.connections[0].back.stall()
            others = [
                play.buyers.buy(Order(f"job-{n}", 20, 300, pace_s=5.0))
                for n in range(effort.buyers - 1)
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
            cable.connections[0].resume()
            (await stopped.done()).check_not_taken_for_whole(play.server)
        await play.idle()
        assert taken < 2 * WINDOW_BYTES + KERNELS_BYTES, f"{taken} bytes for one that takes none"
        assert len(play.link.dialled_at) == 1, "the link suffered"
    return f"{len(others)} complete, one slow_consumer, for whom the agent held {held // KIB} KiB"


def ended_with(play: Stage, code: str) -> float:
    """How many jobs of the agent ended with a code."""
    labels = {"code": code, "format": "openai", "kind": "openai_compatible"}
    return play.service.metrics.registry.get_sample_value("provider_agent_jobs_total", labels) or 0
