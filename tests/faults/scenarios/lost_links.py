"""The link between agent and coordinator is cut, stalls, or closes in one direction."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from itertools import count

from msgspec.structs import replace

from provider_agent.protocol.limits import KIB, SUBPROTOCOL
from tests.faults.scenarios.clients import ScenarioRequest
from tests.faults.scenarios.harness import SETTINGS, ScenarioHarness, scenario_harness
from tests.faults.scenarios.numbered_server import RequestSpec
from tests.faults.scenarios.scenario import Scale
from tests.kit.fault_proxy_pipe import FaultProxyPipe
from tests.kit.proxied_connection import ProxiedConnection
from tests.kit.virtual_time import now

EVENT_BYTES = 700
WINDOW_BYTES = 32 * KIB
"""Smaller than most responses, so that their streams need acknowledgements."""

NOTICED_WITHIN_S = 60.0
"""Covers two ping or three heartbeat intervals, which detect the loss, and the first backoff."""

REFUSED = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.BAD_GATEWAY)
"""503: no agent is connected. 502: the job was sent over too many links that were then lost."""


class LinkCutter:
    """Cuts a number of new connections, each after some bytes, and leaves later ones alone.

    Args:
        rng: chooses the bytes and the direction.
        cuts: how many connections it cuts.
    """

    def __init__(self, rng: random.Random, cuts: int) -> None:
        self._planned = [_random_cut(rng) for _ in range(cuts)]

    @property
    def left(self) -> int:
        """The number of remaining cuts."""
        return len(self._planned)

    def on_connection(self, connection: ProxiedConnection) -> None:
        """Plan a new connection's cut while cuts remain. Used as `FaultProxy.on_connection`."""
        if self._planned:
            upstream, after_bytes = self._planned.pop()
            pipe = connection.upstream if upstream else connection.downstream
            pipe.cut_at(after_bytes)


def _random_cut(rng: random.Random) -> tuple[bool, int]:
    """Return whether to cut upstream, and after how many bytes; one in four hits the handshake."""
    upstream = rng.random() < 0.7
    if rng.random() < 0.25:
        return upstream, rng.randrange(1, 600)
    return upstream, rng.randrange(600, 60_000 if upstream else 900)


async def link_cut_repeatedly(scale: Scale) -> str:
    """Many streams survive many cuts: each is complete and ran once."""
    rng = scale.rng("cuts")
    cutter = LinkCutter(rng, scale.cuts)
    settings = replace(SETTINGS, window_bytes=WINDOW_BYTES, resume_ms=3_600_000)
    async with scenario_harness(rng, settings, dialect=scale.dialect) as harness:
        harness.link_proxy.on_connection = cutter.on_connection
        harness.server.endless = lambda: cutter.left > 0
        specs = [RequestSpec(f"job-{n}", 40 + n, EVENT_BYTES) for n in range(scale.streams)]
        requests = await harness.start_streams(*specs, at_least=1)
        harness.link_proxy.cut()
        await harness.check_all_complete(requests)
        await harness.wait_until_idle()
        megabytes = sum(len(request.data) for request in requests) / 1e6
        connections = len(harness.link_proxy.accepted_at)
    return f"{len(requests)} streams, {megabytes:.1f} MB, {connections} connections"


async def clients_arrive_while_the_link_is_cut(scale: Scale) -> str:
    """The link is also cut at the start and end of jobs: each response is complete or one error."""
    rng = scale.rng("coming")
    cutter = LinkCutter(rng, scale.cuts)
    # All requests that waited for the agent are sent on the next link, and use up the bytes before
    # its cut. So hardly any link lasts long enough to reset the agent's backoff, and the time
    # without a link can exceed the default `resume_ms` of one minute.
    settings = replace(SETTINGS, window_bytes=WINDOW_BYTES, resume_ms=600_000)
    seen: Counter[str] = Counter()

    async def run_client(harness: ScenarioHarness, client: int) -> None:
        for number in count():
            if not cutter.left:
                return
            streamed = rng.random() < 0.7
            name = f"job-{client}-{number}"
            spec = RequestSpec(name, rng.randrange(1, 60), 500, streamed=streamed)
            request = await harness.clients.send(spec).completed()
            if request.status in REFUSED:
                seen["refused"] += 1
                request.check_failed_once(harness.server)
                assert len(harness.server.runs.get(name, [])) <= 1, "it ran twice"
                await asyncio.sleep(rng.uniform(1, 10))
            else:
                seen["complete"] += 1
                request.check_complete(harness.server)

    async with scenario_harness(rng, settings, dialect=scale.dialect) as harness:
        harness.link_proxy.on_connection = cutter.on_connection
        harness.link_proxy.cut()
        clients = (run_client(harness, client) for client in range(scale.streams // 4))
        await asyncio.gather(*clients)
        await harness.wait_until_idle()
    return f"{seen['complete']} complete, {seen['refused']} refused, {scale.cuts} cuts"


async def link_stalls_briefly(scale: Scale) -> str:
    """A pause shorter than every timeout: the connection survives."""
    rng = scale.rng("pause")
    async with scenario_harness(rng, dialect=scale.dialect) as harness:
        for n in range(scale.rounds):
            requests = await _start_streams(harness, f"round-{n}")
            pipes = _one_or_both(rng, harness.link_proxy.connections[0])
            for pipe in pipes:
                pipe.stall()
            await asyncio.sleep(rng.uniform(1, 15))
            for pipe in pipes:
                pipe.resume()
            await _check_all_complete(harness, requests)
        assert len(harness.link_proxy.accepted_at) == 1, "the link was lost"
    return f"{scale.rounds} pauses of 1 to 15 s, one connection"


async def link_stalls_permanently(scale: Scale) -> str:
    """One direction, or both, forward nothing more; only timeouts detect that."""
    rng = scale.rng("stall")

    def stall(connection: ProxiedConnection) -> None:
        for pipe in _one_or_both(rng, connection):
            pipe.stall()

    return await _lose_link_during_streams(scale, stall)


async def link_half_open(scale: Scale) -> str:
    """Both sockets stay open, and every packet is dropped."""
    return await _lose_link_during_streams(scale, ProxiedConnection.blackhole)


async def link_half_closed(scale: Scale) -> str:
    """One side receives a FIN."""
    rng = scale.rng("half-close")

    def half_close(connection: ProxiedConnection) -> None:
        rng.choice(connection.pipes).half_close()

    return await _lose_link_during_streams(scale, half_close)


def _one_or_both(rng: random.Random, connection: ProxiedConnection) -> tuple[FaultProxyPipe, ...]:
    return rng.choice([(connection.upstream,), (connection.downstream,), connection.pipes])


async def _lose_link_during_streams(scale: Scale, lose: Callable[[ProxiedConnection], None]) -> str:
    rng = scale.rng("moments")
    longest = 0.0
    async with scenario_harness(rng, dialect=scale.dialect) as harness:
        for n in range(scale.rounds):
            requests = await _start_streams(harness, f"round-{n}")
            await asyncio.sleep(rng.uniform(0, 20))
            lost_at = now()
            lose(harness.link_proxy.connections[-1])
            if scale.dialect == SUBPROTOCOL:
                await _check_all_complete(harness, requests)
            else:
                await _check_all_failed_once(harness, requests)
            longest = max(longest, harness.link_proxy.accepted_at[-1] - lost_at)
        assert len(harness.link_proxy.accepted_at) == scale.rounds + 1, (
            "not one new connection per lost link"
        )
        assert longest < NOTICED_WITHIN_S, f"reconnected after {longest:.0f} s"
    return f"{scale.rounds} times, reconnected within {longest:.0f} s"


async def _check_all_failed_once(harness: ScenarioHarness, requests: list[ScenarioRequest]) -> None:
    """Check that each stream ends with one error and its run is cancelled, and later jobs run."""
    for request in requests:
        (await request.completed()).check_failed_once(harness.server)
    for request in requests:
        run = harness.server.only_run(request.spec.name)
        assert run.finished or await run.abandoned.wait()
    await harness.wait_for_agents()
    await harness.wait_until_idle()
    await harness.check_served(f"later-{requests[0].spec.name}")


async def link_down_for_too_long(scale: Scale) -> str:
    """The session expires before the agent reconnects: every stream ends with one error."""
    async with scenario_harness(scale.rng("away"), dialect=scale.dialect) as harness:
        requests = await _start_streams(harness, "job", events=120)
        harness.link_proxy.refuse()
        harness.link_proxy.cut()
        for request in requests:
            (await request.completed()).check_failed_once(harness.server)
        for request in requests:
            await harness.server.only_run(request.spec.name).abandoned.wait()
        harness.link_proxy.listen()
        await harness.wait_for_agents()
        await _check_all_complete(harness, await _start_streams(harness, "later"))
    return f"{len(requests)} streams failed once, their runs cancelled"


async def _start_streams(
    harness: ScenarioHarness, name: str, events: int = 24
) -> list[ScenarioRequest]:
    """Start three streams with one event every 5 s, by default for two minutes."""
    specs = [RequestSpec(f"{name}-{n}", events, 300, pace_s=5.0) for n in range(3)]
    return await harness.start_streams(*specs, at_least=700)


async def _check_all_complete(harness: ScenarioHarness, requests: list[ScenarioRequest]) -> None:
    await harness.check_all_complete(requests)
    await harness.wait_until_idle()
