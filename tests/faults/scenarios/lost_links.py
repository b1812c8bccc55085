"""The link between agent and coordinator is cut, again and again or in other ways."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from itertools import count

from msgspec.structs import replace

from provider_agent.protocol.limits import KIB
from tests.faults.scenarios.clients import Purchase
from tests.faults.scenarios.harness import SETTINGS, ScenarioHarness, harness
from tests.faults.scenarios.numbered_server import Order
from tests.faults.scenarios.scenario import Effort
from tests.kit.fault_proxy_pipe import FaultProxyPipe
from tests.kit.proxied_connection import ProxiedConnection
from tests.kit.virtual_time import now

EVENT_BYTES = 700
WINDOW_BYTES = 32 * KIB

NOTICED_WITHIN_S = 60.0
"""Two pings, or three heartbeats, and the first backoff."""


TOLD_STATUSES = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.BAD_GATEWAY)
"""Nobody is there just now; or the job was lost with so many links that it is not sent again."""


class Scissors:
    """Cut each new connection after some bytes, so many times, then leave the link alone.

    Args:
        dice: choose the bytes and the direction.
        cuts: how many connections are cut.
    """

    def __init__(self, dice: random.Random, cuts: int) -> None:
        self._plan = [_cut(dice) for _ in range(cuts)]

    @property
    def left(self) -> int:
        """Cuts to come."""
        return len(self._plan)

    def prepare(self, connection: ProxiedConnection) -> None:
        """For `FaultProxy.on_connection`."""
        if self._plan:
            says, bytes_before = self._plan.pop()
            (connection.upstream if says else connection.downstream).cut_at(bytes_before)


def _cut(dice: random.Random) -> tuple[bool, int]:
    """In which direction, and after how many bytes: a quarter falls into the handshake."""
    says = dice.random() < 0.7
    if dice.random() < 0.25:
        return says, dice.randrange(1, 600)
    return says, dice.randrange(600, 60_000 if says else 900)


async def link_cut_again_and_again(effort: Effort) -> str:
    """Every stream complete, byte-identical, once."""
    dice = effort.dice("cuts")
    scissors = Scissors(dice, effort.cuts)
    settings = replace(SETTINGS, window_bytes=WINDOW_BYTES, resume_ms=3_600_000)
    async with harness(dice, settings) as play:
        play.link.on_connection = scissors.prepare
        play.server.lasting = lambda: scissors.left > 0
        orders = [Order(f"job-{n}", 40 + n, EVENT_BYTES) for n in range(effort.streams)]
        purchases = [play.clients.buy(order) for order in orders]
        await play.server.streaming(*(order.name for order in orders))
        play.link.cut()
        for purchase in purchases:
            (await purchase.done()).check_complete(play.server)
        await play.idle()
        megabytes = sum(len(purchase.data) for purchase in purchases) / 1e6
        dials = len(play.link.accepted_at)
    return f"{len(purchases)} streams, {megabytes:.1f} MB, {dials} connections"


async def clients_come_while_the_link_is_cut(effort: Effort) -> str:
    """Jobs, starts and ends are lost with the link too; no stream is whole or twice by luck."""
    dice = effort.dice("coming")
    scissors = Scissors(dice, effort.cuts)
    settings = replace(SETTINGS, window_bytes=WINDOW_BYTES)
    seen: Counter[str] = Counter()

    async def come_again_and_again(play: ScenarioHarness, client: int) -> None:
        for number in count():
            if not scissors.left:
                return
            streamed = dice.random() < 0.7
            order = Order(f"job-{client}-{number}", dice.randrange(1, 60), 500, streamed=streamed)
            purchase = await play.clients.buy(order).done()
            if purchase.status in TOLD_STATUSES:
                seen["told"] += 1
                purchase.check_failed_once(play.server)
                assert len(play.server.runs.get(order.name, [])) <= 1, "it ran twice"
                await asyncio.sleep(dice.uniform(1, 10))
            else:
                seen["complete"] += 1
                purchase.check_complete(play.server)

    async with harness(dice, settings) as play:
        play.link.on_connection = scissors.prepare
        play.link.cut()
        clients = (come_again_and_again(play, client) for client in range(effort.streams // 4))
        await asyncio.gather(*clients)
        await play.idle()
    return f"{seen['complete']} complete, {seen['told']} told why not, {effort.cuts} cuts"


async def link_stands_still_for_a_while(effort: Effort) -> str:
    """A pause that is shorter than every patience: the connection survives."""
    dice = effort.dice("pause")
    async with harness(dice) as play:
        for n in range(effort.rounds):
            purchases = await _paced(play, f"round-{n}")
            pipes = _one_or_both(dice, play.link.connections[0])
            for pipe in pipes:
                pipe.stall()
            await asyncio.sleep(dice.uniform(1, 15))
            for pipe in pipes:
                pipe.resume()
            await _all_complete(play, purchases)
        assert len(play.link.accepted_at) == 1, "the link was given up"
    return f"{effort.rounds} pauses of 1 to 15 s, one connection"


async def link_stands_still_for_good(effort: Effort) -> str:
    """One direction, or both, pass nothing any more: both sides have to notice by themselves."""
    dice = effort.dice("stall")

    def stall(connection: ProxiedConnection) -> None:
        for pipe in _one_or_both(dice, connection):
            pipe.stall()

    return await _link_lost_mid_stream(effort, stall)


async def link_is_half_open(effort: Effort) -> str:
    """Both sockets stay open and nothing passes: no reset, no end, no answer."""
    return await _link_lost_mid_stream(effort, ProxiedConnection.blackhole)


async def link_is_half_closed(effort: Effort) -> str:
    """One side is told that the other has nothing more to say."""
    dice = effort.dice("half-close")

    def half_close(connection: ProxiedConnection) -> None:
        dice.choice(connection.pipes).half_close()

    return await _link_lost_mid_stream(effort, half_close)


def _one_or_both(dice: random.Random, connection: ProxiedConnection) -> tuple[FaultProxyPipe, ...]:
    return dice.choice([(connection.upstream,), (connection.downstream,), connection.pipes])


async def _link_lost_mid_stream(effort: Effort, lose: Callable[[ProxiedConnection], None]) -> str:
    dice = effort.dice("moments")
    longest = 0.0
    async with harness(dice) as play:
        for n in range(effort.rounds):
            purchases = await _paced(play, f"round-{n}")
            await asyncio.sleep(dice.uniform(0, 20))
            lost_at = now()
            lose(play.link.connections[-1])
            await _all_complete(play, purchases)
            longest = max(longest, play.link.accepted_at[-1] - lost_at)
        assert len(play.link.accepted_at) == effort.rounds + 1, "one new connection for each"
        assert longest < NOTICED_WITHIN_S, f"noticed after {longest:.0f} s"
    return f"{effort.rounds} times, dialled again within {longest:.0f} s"


async def link_is_away_for_too_long(effort: Effort) -> str:
    """Longer than the coordinator keeps a session: every stream ends with one error."""
    async with harness(effort.dice("away")) as play:
        purchases = await _paced(play, "job", events=120)
        play.link.refuse()
        play.link.cut()
        for purchase in purchases:
            (await purchase.done()).check_failed_once(play.server)
        for purchase in purchases:
            await play.server.only_run(purchase.order.name).abandoned.wait()
        play.link.listen()
        await play.offers()
        await _all_complete(play, await _paced(play, "later"))
    return f"{len(purchases)} streams told, their server freed"


async def _paced(play: ScenarioHarness, name: str, events: int = 24) -> list[Purchase]:
    """Some streams of two minutes, all under way."""
    orders = [Order(f"{name}-{n}", events, 300, pace_s=5.0) for n in range(3)]
    purchases = [play.clients.buy(order) for order in orders]
    await play.server.streaming(*(order.name for order in orders), at_least=700)
    return purchases


async def _all_complete(play: ScenarioHarness, purchases: list[Purchase]) -> None:
    for purchase in purchases:
        (await purchase.done()).check_complete(play.server)
    await play.idle()
