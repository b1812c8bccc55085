"""The link is slow or far away."""

import asyncio

from tests.faults.scenarios.clients import Purchase
from tests.faults.scenarios.harness import harness
from tests.faults.scenarios.numbered_server import Order
from tests.faults.scenarios.scenario import Effort
from tests.kit.virtual_time import now

BYTES_PER_S = 100_000
DELAY_S = 0.3
EVENTS = 10
PACE_S = 3.0

LATE_S = 5.0
"""How much later than on an idle link a small job may be: what the network itself has buffered."""


async def link_is_slow_and_far_away(effort: Effort) -> str:
    """One job wants more than the link carries; small ones keep their pace beside it."""

    async with harness(effort.dice("slow")) as play:
        for pipe in play.link.connections[0].pipes:
            pipe.delay_s = DELAY_S
            pipe.bytes_per_s = BYTES_PER_S
        greedy = play.clients.buy(Order("greedy", 1000, 4000))
        await play.server.streaming("greedy", at_least=400_000)
        began = now()
        small = [play.clients.buy(Order(f"small-{n}", EVENTS, 200, PACE_S)) for n in range(3)]
        late = await asyncio.gather(*(_lateness(one, began) for one in small))
        assert not greedy.task or not greedy.task.done(), "the link was not busy all the time"
        assert max(late) < LATE_S, f"small jobs were {max(late):.1f} s late"
        for purchase in [greedy, *small]:
            (await purchase.done()).check_complete(play.server)
        took = now() - began
        await play.idle()
        assert len(play.link.accepted_at) == 1, "the slow link was given up"
    return f"4 MB in {took:.0f} s, small jobs {max(late):.1f} s late at most"


async def _lateness(purchase: Purchase, began: float) -> float:
    await purchase.done()
    return now() - began - EVENTS * PACE_S
