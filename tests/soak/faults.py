"""What is done to the world, at random. Every fault is over when its call returns."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from tests.kit.fault_proxy import ConnectPolicy, FaultProxy
from tests.kit.fault_proxy_pipe import FaultProxyPipe
from tests.kit.proxied_connection import ProxiedConnection
from tests.soak.world import Provider, World

PEACE_S = 2.0
"""Between two faults, on average."""

Fault = Callable[[World, random.Random], Awaitable[None]]


async def run(world: World, dice: random.Random, stopping: asyncio.Event) -> None:
    """One fault after the other, with some peace between them, until told to stop."""
    faults = list(FAULTS.items())
    weights = [weight for _, (weight, _) in faults]
    while not stopping.is_set():
        name, (_, fault) = dice.choices(faults, weights)[0]
        world.tally.faults[name] += 1
        await fault(world, dice)
        for provider in world.providers:
            if provider.died:
                world.tally.defect(f"an agent ended by itself after {name}: {provider.service!r}")
                provider.start()
        await asyncio.sleep(dice.expovariate(1 / PEACE_S))


async def _cut(world: World, dice: random.Random) -> None:
    _proxy(world, dice).cut()


async def _cut_soon(world: World, dice: random.Random) -> None:
    """In the middle of a frame: the next connection, or one that is there."""
    proxy = _proxy(world, dice)

    def cut_after(connection: ProxiedConnection) -> None:
        pipe = dice.choice(connection.pipes)
        pipe.cut_at(pipe.forwarded + int(10 ** dice.uniform(0, 5)))

    if proxy.connections and dice.random() < 0.7:
        cut_after(dice.choice(proxy.connections))
    else:
        proxy.on_connection = cut_after
        await asyncio.sleep(dice.uniform(0, 3))
        proxy.on_connection = _leave_alone


async def _stall(world: World, dice: random.Random) -> None:
    pipes = _pipes(_proxy(world, dice), dice)
    for pipe in pipes:
        pipe.stall()
    await asyncio.sleep(dice.uniform(0.05, 4))
    for pipe in pipes:
        pipe.resume()


async def _vanish(world: World, dice: random.Random) -> None:
    _proxy(world, dice).blackhole()


async def _half_close(world: World, dice: random.Random) -> None:
    for connection in _proxy(world, dice).connections:
        dice.choice(connection.pipes).half_close()


async def _throttle(world: World, dice: random.Random) -> None:
    await _changed(world, dice, "bytes_per_s", 10 ** dice.uniform(4, 6))


async def _delay(world: World, dice: random.Random) -> None:
    await _changed(world, dice, "delay_s", dice.uniform(0.01, 0.5))


async def _changed(world: World, dice: random.Random, name: str, value: float) -> None:
    proxy = _proxy(world, dice)
    pipes = [pipe for connection in proxy.connections for pipe in connection.pipes]

    def prepare(connection: ProxiedConnection) -> None:
        for pipe in connection.pipes:
            pipes.append(pipe)
            setattr(pipe, name, value)

    before = {"bytes_per_s": None, "delay_s": 0.0}[name]
    for pipe in pipes:
        setattr(pipe, name, value)
    proxy.on_connection = prepare
    await asyncio.sleep(dice.uniform(0.2, 4))
    proxy.on_connection = _leave_alone
    for pipe in pipes:
        setattr(pipe, name, before)


async def _refuse(world: World, dice: random.Random) -> None:
    proxy = _proxy(world, dice)
    proxy.refuse()
    proxy.cut()
    await asyncio.sleep(dice.uniform(0.1, 4))
    proxy.listen()


async def _accept_then_drop(world: World, dice: random.Random) -> None:
    proxy = _proxy(world, dice)
    proxy.connect_policy = ConnectPolicy.RESET
    proxy.cut()
    await asyncio.sleep(dice.uniform(0.1, 4))
    proxy.connect_policy = ConnectPolicy.FORWARD


async def _restart_server(world: World, dice: random.Random) -> None:
    await world.restart_server(dice.uniform(0, 2))


async def _restart_coordinator(world: World, dice: random.Random) -> None:
    await world.restart_coordinator(dice.uniform(0, 2))


async def _restart_agent(world: World, dice: random.Random) -> None:
    await _provider(world, dice).restart(dice.uniform(0, 1), force=dice.random() < 0.3)


async def _reload(world: World, dice: random.Random) -> None:
    _provider(world, dice).reload()


def _provider(world: World, dice: random.Random) -> Provider:
    return dice.choice(world.providers)


def _proxy(world: World, dice: random.Random) -> FaultProxy:
    """A link twice as often as a backend's proxy."""
    provider = _provider(world, dice)
    return dice.choice([provider.link, provider.link, provider.backend_proxy])


def _pipes(proxy: FaultProxy, dice: random.Random) -> list[FaultProxyPipe]:
    """One direction of every connection, or both."""
    which = dice.choice([(0,), (1,), (0, 1)])
    return [connection.pipes[at] for connection in proxy.connections for at in which]


def _leave_alone(_connection: ProxiedConnection) -> None:
    pass


FAULTS: dict[str, tuple[float, Fault]] = {
    "cut": (4, _cut),
    "cut soon": (4, _cut_soon),
    "stall": (3, _stall),
    "vanish": (2, _vanish),
    "half-close": (2, _half_close),
    "throttle": (2, _throttle),
    "delay": (2, _delay),
    "refuse": (2, _refuse),
    "accept then drop": (2, _accept_then_drop),
    "server restarted": (1, _restart_server),
    "coordinator restarted": (0.4, _restart_coordinator),
    "agent restarted": (1, _restart_agent),
    "settings reloaded": (2, _reload),
}
"""By name: how often, in proportion, and what."""
