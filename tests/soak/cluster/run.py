"""The phases of a run: load with random faults, and a rolling restart under load."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGTERM

import click

from tests.soak.clients import Clients, Load
from tests.soak.cluster.faults import inject_faults
from tests.soak.cluster.fleet import Fleet, running_fleet
from tests.soak.counts import Counts
from tests.soak.outcome import OutcomeKind
from tests.soak.random_request import Shape

CLIENTS = 64
FAULT_TASKS = 2

WARM_UP_SHARE = 0.25
"""Share of the run before the first footprint. The last footprint is compared with the first."""
MAX_WARM_UP_S = 60.0
"""The longest time under load before the first footprint."""

SHAPES: tuple[Shape, ...] = (
    (20, 40, 100),
    (60, 80, 50),
    (3, 20, 500),
    (40, 4000, 50),
    (100, 8000, 20),
    (200, 60, 100),
    (100, 60, 250),
)
"""Responses of 1 s to 25 s. 64 streams have no more events than one machine relays."""

LONGEST_RESPONSE_S = max(pieces * pace_ms for pieces, _, pace_ms in SHAPES) / 1000

FAULT_LOAD = Load(
    clients=CLIENTS,
    attempts=3,
    runs_per_job=1,
    # A detached session (60 s), the queue (30 s), and the response itself.
    timeout_s=180,
    keep_alive=False,
    shapes=SHAPES,
)

ROLLING_DRAIN_S = 2 * LONGEST_RESPONSE_S
"""The stopping coordinator waits for the responses of its own clients, even on a busy machine."""


async def soak_cluster(rng: random.Random, counts: Counts, seconds: float, folder: Path) -> None:
    """Run all phases; record outcomes and defects in `counts`. Logs are in `folder`."""
    async with running_fleet(rng, counts, folder) as fleet:
        warm_up_s = min(MAX_WARM_UP_S, WARM_UP_SHARE * seconds)
        await _run_with_faults(fleet, warm_up_s)
        start = await fleet.footprints()
        await _run_with_faults(fleet, seconds - warm_up_s)
        fleet.drain_s = ROLLING_DRAIN_S
        await asyncio.gather(*(fleet.restart(one, SIGTERM) for one in fleet.coordinators))
        await fleet.wait_until_idle()
        click.echo(f"rolling restart: {await rolling_restart(fleet, FAULT_LOAD)}")
        await fleet.wait_until_idle()
        end = await fleet.footprints(start)
        for name, footprint in end.items():
            click.echo(f"{name}: {start[name]} at the start, {footprint} at the end")
            for leak in footprint.leaks_since(start[name]):
                counts.add_defect(f"leak in {name}: {leak}")
        if fleet.server.late_runs:
            counts.add_defect(f"{fleet.server.late_runs} jobs ran again after their end")
        fleet.check_processes()


async def rolling_restart(fleet: Fleet, load: Load) -> str:
    """Restart every coordinator, one after the other, under load.

    Record a defect for each reason of a failed request. Return the counts as text.
    """
    counts = Counts()
    resumed_before = fleet.counts.resumed
    async with _running_clients(fleet, load, counts):
        for coordinator in fleet.coordinators:
            await _wait_for_answers(counts, load.clients // 2)
            logging.getLogger(__name__).info("restart of %s", coordinator.name)
            await fleet.restart(coordinator, SIGTERM)
            while fleet.balancer.ready < len(fleet.coordinators):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await _wait_for_answers(counts, load.clients // 2)
    fleet.check_processes()
    counts.resumed = fleet.counts.resumed - resumed_before
    for defect in counts.defects:
        fleet.counts.add_defect(f"rolling restart: {defect}")
    for reason, number in counts.errors.items():
        fleet.counts.add_defect(f"rolling restart: {number} requests failed: {reason}")
    return counts.line()


async def _wait_for_answers(counts: Counts, number: int) -> None:
    """Wait for so many more complete answers."""
    enough = counts.outcomes[OutcomeKind.COMPLETE] + number
    while counts.outcomes[OutcomeKind.COMPLETE] < enough:  # noqa: ASYNC110
        await asyncio.sleep(0.1)


async def _run_with_faults(fleet: Fleet, seconds: float) -> None:
    """Run clients and faults for `seconds`; return when the fleet is idle again."""
    stopping = asyncio.Event()
    async with _running_clients(fleet, FAULT_LOAD, fleet.counts), asyncio.TaskGroup() as group:
        for _ in range(FAULT_TASKS):
            rng = random.Random(fleet.rng.random())
            group.create_task(inject_faults(fleet, rng, stopping), name="faults")
        await asyncio.sleep(seconds)
        stopping.set()
    fleet.repair()
    await fleet.wait_until_idle()
    fleet.check_processes()


@asynccontextmanager
async def _running_clients(fleet: Fleet, load: Load, counts: Counts) -> AsyncIterator[None]:
    """Run clients; at the end, wait for their last responses."""
    stopping = asyncio.Event()
    clients = Clients(
        load,
        random.Random(fleet.rng.random()),
        url=lambda: fleet.balancer.url,
        server=fleet.server,
        counts=counts,
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(clients.run(stopping), name="clients")
        try:
            yield
        finally:
            stopping.set()
