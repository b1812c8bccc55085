"""The coordinator dies, restarts, or says that it is going away."""

import asyncio

from msgspec.structs import replace

from tests.faults.scenarios.clients import Purchase
from tests.faults.scenarios.harness import SETTINGS, ScenarioHarness, harness, until
from tests.faults.scenarios.numbered_server import Order
from tests.faults.scenarios.scenario import Effort


async def coordinator_dies_and_another_knows_nothing(effort: Effort) -> str:
    """Killed: nobody says a word. The new one welcomes the agent and names none of its jobs."""
    async with harness(effort.dice("killed")) as play:
        purchases = await _streaming(play, effort.streams // 4)
        old = await play.replace_coordinator()
        play.link.cut()
        await play.offers()
        for purchase in purchases:
            await play.server.only_run(purchase.order.name).abandoned.wait()
        assert play.service.jobs.in_flight == 0
        await _new_job_runs(play)
        await old.stop()
        for purchase in purchases:
            (await purchase.done()).check_failed_once(play.server)
    return f"{len(purchases)} orphans cancelled at the server"


async def coordinator_stops_and_starts_again(effort: Effort) -> str:
    """An orderly stop that waits for nobody."""
    async with harness(effort.dice("stopped")) as play:
        purchases = await _streaming(play, effort.streams // 4)
        old = await play.replace_coordinator()
        await old.stop()
        for purchase in purchases:
            (await purchase.done()).check_failed_once(play.server)
            await play.server.only_run(purchase.order.name).abandoned.wait()
        await play.offers()
        await _new_job_runs(play)
        await play.idle()
    return f"{len(purchases)} clients told once, their server freed"


async def coordinator_drains_while_jobs_run(effort: Effort) -> str:
    """It waits for running jobs, takes no new ones, and is left when every end is there."""
    settings = replace(SETTINGS, drain_s=3600.0)
    async with harness(effort.dice("drain"), settings) as play:
        purchases = await _streaming(play, effort.streams // 4)
        old = await play.replace_coordinator()
        stopping = asyncio.create_task(old.stop(), name="old coordinator stops")
        for purchase in purchases:
            (await purchase.done()).check_complete(play.server)
        await stopping
        await play.offers()
        await _new_job_runs(play)
        await play.idle()
    return f"{len(purchases)} jobs finished at the old one"


async def _streaming(play: ScenarioHarness, count: int) -> list[Purchase]:
    """Streams of one to three minutes, all under way."""
    orders = [Order(f"job-{n}", 12 + n * 24 // count, 300, pace_s=5.0) for n in range(count)]
    purchases = [play.clients.buy(order) for order in orders]
    await play.server.streaming(*(order.name for order in orders), at_least=700)
    return purchases


async def _new_job_runs(play: ScenarioHarness) -> None:
    await until(play.service.uplink.connected.is_set)
    (await play.clients.buy(Order("afterwards")).done()).check_complete(play.server)
