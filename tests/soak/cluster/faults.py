"""Random faults of a cluster. A fault with a duration has ended when its function returns."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

from tests.soak.cluster.fleet import Fleet

PAUSE_S = 2.0
"""Mean pause between two faults."""

DRAINS_S = (0.0, 2.0, 10.0)
"""`--drain-timeout` of a coordinator that starts."""

Fault = Callable[[Fleet, random.Random], Awaitable[None]]

log = logging.getLogger(__name__)


async def inject_faults(fleet: Fleet, rng: random.Random, stopping: asyncio.Event) -> None:
    """Inject one fault after the other, with pauses between them, until `stopping` is set."""
    faults = list(FAULTS.items())
    weights = [weight for _, (weight, _) in faults]
    while not stopping.is_set():
        name, (_, fault) = rng.choices(faults, weights)[0]
        fleet.counts.faults[name] += 1
        log.info("fault: %s", name)
        await fault(fleet, rng)
        log.info("end of fault: %s", name)
        fleet.check_processes()
        await asyncio.sleep(rng.expovariate(1 / PAUSE_S))


async def _kill_coordinator(fleet: Fleet, rng: random.Random) -> None:
    fleet.drain_s = rng.choice(DRAINS_S)
    await fleet.restart(rng.choice(fleet.coordinators), SIGKILL)


async def _stop_coordinator(fleet: Fleet, rng: random.Random) -> None:
    fleet.drain_s = rng.choice(DRAINS_S)
    await fleet.restart(rng.choice(fleet.coordinators), SIGTERM)


async def _suspend_coordinator(fleet: Fleet, rng: random.Random) -> None:
    """Longer than the 6 s after which the other coordinators drop it, or shorter."""
    coordinator = rng.choice(fleet.coordinators)
    async with coordinator.restarting:
        coordinator.send_signal(SIGSTOP)
        await asyncio.sleep(rng.uniform(1, 10))
        coordinator.send_signal(SIGCONT)


async def _kill_agent(fleet: Fleet, rng: random.Random) -> None:
    await fleet.restart(rng.choice(fleet.agents), SIGKILL)


async def _stop_agent(fleet: Fleet, rng: random.Random) -> None:
    await fleet.restart(rng.choice(fleet.agents), SIGTERM)


async def _restart_nats(fleet: Fleet, rng: random.Random) -> None:
    await fleet.restart_nats(rng.uniform(0, 4))


async def _suspend_nats(fleet: Fleet, rng: random.Random) -> None:
    await fleet.suspend_nats(rng.uniform(0.5, 8))


async def _cut(fleet: Fleet, rng: random.Random) -> None:
    rng.choice(fleet.links).cut()


async def _stall(fleet: Fleet, rng: random.Random) -> None:
    link = rng.choice(fleet.links)
    pipes = [pipe for connection in link.connections for pipe in connection.pipes]
    for pipe in pipes:
        pipe.stall()
    await asyncio.sleep(rng.uniform(0.05, 4))
    for pipe in pipes:
        pipe.resume()


async def _refuse(fleet: Fleet, rng: random.Random) -> None:
    link = rng.choice(fleet.links)
    link.refuse()
    link.cut()
    await asyncio.sleep(rng.uniform(0.1, 4))
    link.listen()


FAULTS: dict[str, tuple[float, Fault]] = {
    "coordinator killed": (2, _kill_coordinator),
    "coordinator stopped": (2, _stop_coordinator),
    "coordinator suspended": (1, _suspend_coordinator),
    "agent killed": (1, _kill_agent),
    "agent stopped": (1, _stop_agent),
    "NATS restarted": (2, _restart_nats),
    "NATS suspended": (1, _suspend_nats),
    "link cut": (4, _cut),
    "link stalled": (2, _stall),
    "link refused": (2, _refuse),
}
"""The relative frequency and the function of each fault, by name."""
