"""Clocks jump: a laptop was asleep, or somebody set the time."""

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.faults.scenarios.clients import Purchase
from tests.faults.scenarios.harness import ScenarioHarness, harness, until
from tests.faults.scenarios.numbered_server import Order
from tests.faults.scenarios.scenario import Effort
from tests.kit.virtual_time import VirtualTimeLoop

MOMENT_S = 20.0
HOUR_S = 3600.0
YEAR_S = 365 * 24 * HOUR_S


async def machine_asleep_for_a_moment(effort: Effort) -> str:
    """Shorter than a session is kept: nobody notices but by the clock."""
    async with harness(effort.dice("nap")) as play:
        purchases = await _streaming(play)
        await _sleep_through(play, MOMENT_S)
        for purchase in purchases:
            (await purchase.done()).check_complete(play.server)
        await play.idle()
    return f"{len(purchases)} complete"


async def machine_asleep_for_an_hour(effort: Effort) -> str:
    """Every timer is late at once, and the network has forgotten the connection."""
    async with harness(effort.dice("sleep")) as play:
        purchases = await _streaming(play)
        await _sleep_through(play, HOUR_S)
        for purchase in purchases:
            await purchase.done()
            if purchase.errors:
                purchase.check_failed_once(play.server)
            else:
                purchase.check_complete(play.server)
        await until(play.service.uplink.connected.is_set)
        await play.offers()
        (await play.clients.buy(Order("afterwards")).done()).check_complete(play.server)
        await play.idle()
    told = sum(purchase.errors for purchase in purchases)
    return f"{len(purchases) - told} complete, {told} told once, agent serves"


async def _sleep_through(play: ScenarioHarness, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    play.link.blackhole()
    loop.jump(seconds)
    await asyncio.sleep(0)


async def _streaming(play: ScenarioHarness) -> list[Purchase]:
    orders = [Order(f"job-{n}", 24, 300, pace_s=5.0) for n in range(6)]
    purchases = [play.clients.buy(order) for order in orders]
    await play.server.streaming(*(order.name for order in orders), at_least=700)
    return purchases


async def wall_clock_set_back_and_forth(effort: Effort) -> str:
    """By up to a year, at every look at it: no decision may depend on it."""
    dice = effort.dice("wall clock")
    with _crazy_wall_clock(dice):
        async with harness(dice) as play:
            purchases = await _streaming(play)
            await asyncio.sleep(20)
            await play.new_link()
            for purchase in purchases:
                (await purchase.done()).check_complete(play.server)
            await play.idle()
    return f"{len(purchases)} complete over two links"


@contextmanager
def _crazy_wall_clock(dice: random.Random) -> Iterator[None]:
    right = time.time
    time.time = lambda: right() + dice.uniform(-YEAR_S, YEAR_S)
    try:
        yield
    finally:
        time.time = right
