"""A byte arrives that was not sent.

`ws://` has no checksum beyond TCP's, so that nobody can tell a wrong letter of an answer from a
right one: that is what TLS is for. What can be told is told: a frame that is none, a field out of
its range, an offset that does not fit. And whatever it was, nothing hangs.
"""

import asyncio
from collections import Counter

from msgspec.structs import replace

from provider_agent.agent.service import EXIT_REFUSED
from tests.faults.scenarios.clients import Purchase
from tests.faults.scenarios.harness import SETTINGS, ScenarioHarness, harness, until
from tests.faults.scenarios.numbered_server import NumberedServer, Order
from tests.faults.scenarios.scenario import Effort

DEADLINE_S = 600.0
"""Of the jobs: an end frame whose job id is another one cannot be told from no end at all."""

STOPPED_WITHIN_S = 5.0
"""There is nobody left to wait for."""

RESERVED_BITS = 0x70
"""Of a WebSocket frame's first byte (RFC 6455, 5.2): nobody may set them."""


async def frame_head_corrupted_on_its_way_to_the_agent(effort: Effort) -> str:
    """The first byte of the coordinator's next frame: the agent ends the link and comes back."""
    async with harness(effort.dice("frame head")) as play:
        told = await _frame_head_corrupted(play, towards_agent=True)
        await play.offers()
        (await play.clients.buy(Order("later")).done()).check_complete(play.server)
        await play.idle()
    return f"link ended, {told} streams told once, agent back"


async def frame_head_corrupted_on_its_way_to_the_coordinator(effort: Effort) -> str:
    """The first byte of the agent's next frame: the coordinator takes it for another protocol.

    It says so with close code 1002, which tells an agent that it would go wrong again.
    """
    async with harness(effort.dice("frame head")) as play:
        told = await _frame_head_corrupted(play, towards_agent=False)
        assert await asyncio.wait_for(play.agents[0].task, STOPPED_WITHIN_S) == EXIT_REFUSED
        await until(lambda: not play.server.active)
    return f"link ended, {told} streams told once, agent stopped with {EXIT_REFUSED}"


async def _frame_head_corrupted(play: ScenarioHarness, *, towards_agent: bool) -> int:
    orders = [Order(f"job-{n}", 20, 300, pace_s=5.0) for n in range(3)]
    purchases = [play.clients.buy(order) for order in orders]
    await play.server.streaming(*(order.name for order in orders), at_least=700)
    await asyncio.sleep(2)  # between two events: what comes next is the head of a frame
    connection = play.link.connections[-1]
    pipe = connection.downstream if towards_agent else connection.upstream
    pipe.corrupt_at(pipe.forwarded, RESERVED_BITS)
    for purchase in purchases:
        (await purchase.done()).check_failed_once(play.server)
    assert connection.closed.is_set(), "the link is still open"
    return len(purchases)


async def any_byte_corrupted(effort: Effort) -> str:
    """Any bit of any byte, in either direction: nothing hangs, at most one stream is wrong."""
    dice = effort.dice("any byte")
    seen: Counter[str] = Counter()
    async with harness(dice, replace(SETTINGS, deadline_s=DEADLINE_S)) as play:
        for n in range(effort.rounds * 4):
            purchases = [play.clients.buy(Order(f"{n}-{k}", 200, 300)) for k in range(3)]
            connection = play.link.connections[-1]
            pipe = dice.choice(connection.pipes)
            # The answers take some 200 kB one way, and their acknowledgements half a kB the other.
            reach = 150_000 if pipe is connection.upstream else 400
            pipe.corrupt_at(pipe.forwarded + dice.randrange(reach), 1 << dice.randrange(8))
            for purchase in purchases:
                await asyncio.wait_for(purchase.done(), 2 * DEADLINE_S)
            verdicts = Counter(_verdict(purchase, play.server) for purchase in purchases)
            assert verdicts["wrong"] <= 1, f"one byte made {verdicts}"
            seen += verdicts
            await asyncio.sleep(STOPPED_WITHIN_S)  # an agent that was told 1002 has stopped by then
            if play.agents[0].task.done():
                seen["agent stopped"] += 1
                play.agents.clear()
                await play.add_agent()
            await play.new_link()  # a flip that is still to come shall not hit the next round
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(seen.items()))


def _verdict(purchase: Purchase, server: NumberedServer) -> str:
    """How a stream went that may have been hit."""
    runs = server.runs.get(purchase.order.name)
    sent = bytes(runs[0].sent) if runs else b""
    got = bytes(purchase.data)
    if got == sent and not purchase.broken:
        return "complete"
    if purchase.broken or purchase.errors:
        return "told"
    differing = sum(one != other for one, other in zip(got, sent, strict=False))
    assert len(got) == len(sent), f"{len(got)} bytes of {len(sent)} and no word about it"
    assert differing == 1, f"{differing} bytes differ after one was corrupted"
    return "wrong"
