"""Random faults.

A fault with a duration has ended when its function returns. The effect of a cut, a blackhole or a
half-close on a connection is permanent.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

from tests.kit.fault_proxy import ConnectPolicy, FaultProxy
from tests.kit.fault_proxy_pipe import FaultProxyPipe
from tests.kit.proxied_connection import ProxiedConnection
from tests.soak.managed_agent import ManagedAgent
from tests.soak.system import System

PAUSE_S = 2.0
"""Mean pause between two faults."""

Fault = Callable[[System, random.Random], Awaitable[None]]


async def inject_faults(system: System, rng: random.Random, stopping: asyncio.Event) -> None:
    """Inject one fault after the other, with pauses between them, until `stopping` is set."""
    faults = list(FAULTS.items())
    weights = [weight for _, (weight, _) in faults]
    while not stopping.is_set():
        name, (_, fault) = rng.choices(faults, weights)[0]
        system.counts.faults[name] += 1
        await fault(system, rng)
        for agent in system.agents:
            if agent.exited:
                system.counts.add_defect(f"an agent exited after {name}: {agent.service!r}")
                agent.start()
        await asyncio.sleep(rng.expovariate(1 / PAUSE_S))


async def _cut(system: System, rng: random.Random) -> None:
    _proxy(system, rng).cut()


async def _cut_soon(system: System, rng: random.Random) -> None:
    """Cut an open connection, or all that open in the next seconds, each after some bytes."""
    proxy = _proxy(system, rng)

    def cut_after(connection: ProxiedConnection) -> None:
        pipe = rng.choice(connection.pipes)
        pipe.cut_at(pipe.forwarded + int(10 ** rng.uniform(0, 5)))

    if proxy.connections and rng.random() < 0.7:
        cut_after(rng.choice(proxy.connections))
    else:
        proxy.on_connection = cut_after
        await asyncio.sleep(rng.uniform(0, 3))
        proxy.on_connection = _forward


async def _stall(system: System, rng: random.Random) -> None:
    pipes = _pipes(_proxy(system, rng), rng)
    for pipe in pipes:
        pipe.stall()
    await asyncio.sleep(rng.uniform(0.05, 4))
    for pipe in pipes:
        pipe.resume()


async def _blackhole(system: System, rng: random.Random) -> None:
    _proxy(system, rng).blackhole()


async def _half_close(system: System, rng: random.Random) -> None:
    for connection in _proxy(system, rng).connections:
        rng.choice(connection.pipes).half_close()


async def _throttle(system: System, rng: random.Random) -> None:
    await _set_for_a_while(system, rng, "bytes_per_s", 10 ** rng.uniform(4, 6))


async def _delay(system: System, rng: random.Random) -> None:
    await _set_for_a_while(system, rng, "delay_s", rng.uniform(0.01, 0.5))


async def _set_for_a_while(system: System, rng: random.Random, name: str, value: float) -> None:
    proxy = _proxy(system, rng)
    pipes = [pipe for connection in proxy.connections for pipe in connection.pipes]

    def configure(connection: ProxiedConnection) -> None:
        for pipe in connection.pipes:
            pipes.append(pipe)
            setattr(pipe, name, value)

    default = {"bytes_per_s": None, "delay_s": 0.0}[name]
    for pipe in pipes:
        setattr(pipe, name, value)
    proxy.on_connection = configure
    await asyncio.sleep(rng.uniform(0.2, 4))
    proxy.on_connection = _forward
    for pipe in pipes:
        setattr(pipe, name, default)


async def _refuse(system: System, rng: random.Random) -> None:
    proxy = _proxy(system, rng)
    proxy.refuse()
    proxy.cut()
    await asyncio.sleep(rng.uniform(0.1, 4))
    proxy.listen()


async def _accept_and_reset(system: System, rng: random.Random) -> None:
    proxy = _proxy(system, rng)
    proxy.connect_policy = ConnectPolicy.RESET
    proxy.cut()
    await asyncio.sleep(rng.uniform(0.1, 4))
    proxy.connect_policy = ConnectPolicy.FORWARD


async def _restart_server(system: System, rng: random.Random) -> None:
    await system.restart_server(rng.uniform(0, 2))


async def _restart_coordinator(system: System, rng: random.Random) -> None:
    await system.restart_coordinator(rng.uniform(0, 2))


async def _restart_agent(system: System, rng: random.Random) -> None:
    await _agent(system, rng).restart(rng.uniform(0, 1), force=rng.random() < 0.3)


async def _reload(system: System, rng: random.Random) -> None:
    _agent(system, rng).reload()


async def _pause(system: System, rng: random.Random) -> None:
    backend = rng.choice([None, None, "openai_compatible"])
    await _agent(system, rng).pause(backend, rng.uniform(0, 4))


def _agent(system: System, rng: random.Random) -> ManagedAgent:
    return rng.choice(system.agents)


def _proxy(system: System, rng: random.Random) -> FaultProxy:
    """Return a random proxy; a link proxy is twice as likely as a backend proxy."""
    agent = _agent(system, rng)
    return rng.choice([agent.link, agent.link, agent.backend_proxy])


def _pipes(proxy: FaultProxy, rng: random.Random) -> list[FaultProxyPipe]:
    """Return the pipes of one random direction of every connection, or of both directions."""
    which = rng.choice([(0,), (1,), (0, 1)])
    return [connection.pipes[at] for connection in proxy.connections for at in which]


def _forward(_connection: ProxiedConnection) -> None:
    pass


FAULTS: dict[str, tuple[float, Fault]] = {
    "cut": (4, _cut),
    "cut soon": (4, _cut_soon),
    "stall": (3, _stall),
    "blackhole": (2, _blackhole),
    "half-close": (2, _half_close),
    "throttle": (2, _throttle),
    "delay": (2, _delay),
    "refuse": (2, _refuse),
    "accept and reset": (2, _accept_and_reset),
    "server restarted": (1, _restart_server),
    "coordinator restarted": (0.4, _restart_coordinator),
    "agent restarted": (1, _restart_agent),
    "settings reloaded": (2, _reload),
    "paused": (2, _pause),
}
"""The relative frequency and the function of each fault, by name."""
