"""The inference server dies in the middle of its answers, and comes back."""

import asyncio

from tests.faults.scenarios.harness import harness, until
from tests.faults.scenarios.numbered_server import Order
from tests.faults.scenarios.scenario import Effort


async def backend_killed_and_restarted(effort: Effort) -> str:
    """Each of its jobs ends with one error; later jobs run as soon as it is back."""
    async with harness(effort.dice("backend")) as play:
        orders = [Order(f"job-{n}", 24, 300, pace_s=5.0) for n in range(effort.streams // 2)]
        purchases = [play.clients.buy(order) for order in orders]
        await play.server.streaming(*(order.name for order in orders), at_least=700)
        play.backend_proxy.refuse()
        play.backend_proxy.cut()
        for purchase in purchases:
            (await purchase.done()).check_failed_once(play.server)
        refused = await play.clients.buy(Order("meanwhile")).done()
        refused.check_failed_once(play.server)
        await asyncio.sleep(60)
        play.backend_proxy.listen()
        await until(lambda: any(one.models for one in play.coordinator.agents()))
        (await play.clients.buy(Order("afterwards")).done()).check_complete(play.server)
        await play.idle()
        assert len(play.link.accepted_at) == 1, "the link suffered"
    return f"{len(purchases)} clients told once, {refused.status} meanwhile, then served"
