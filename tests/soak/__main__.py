"""`python -m tests.soak`: run the soak test, which CONTRIBUTING.md ("Soak test") describes."""

import asyncio
import gc
import logging
import random
import sys
import time
import tracemalloc
from pathlib import Path
from unittest.mock import patch

import click
import uvloop

from provider_agent.agent.link import watchdogs
from tests.soak.clients import Clients
from tests.soak.cluster import SETTINGS, Cluster, running_cluster
from tests.soak.counts import Counts
from tests.soak.faults import inject_faults
from tests.soak.footprint import Footprint
from tests.soak.managed_agent import PING_EVERY_S
from tests.soak.viewers import viewers

CLIENTS = 16
FAULT_TASKS = 2

WARM_UP_SHARE = 0.25
"""Share of the run before the first footprint. The last footprint is compared with the first."""
MAX_WARM_UP_S = 60.0
"""The longest time under load before the first footprint."""

SETTLE_S = 20.0
"""Time for kept-alive connections to close and for timers to end."""


@click.command()
@click.option("--minutes", default=5.0, show_default=True, help="Duration.")
@click.option("--seed", type=int, help="Seed of every random choice; printed if not given.")
@click.option("--asyncio-loop", is_flag=True, help="asyncio's own event loop instead of uvloop's.")
@click.option("--every", default=10.0, show_default=True, help="Seconds between two status lines.")
@click.option("--log", type=click.Path(path_type=Path), help="File for the log of every part.")
def main(
    minutes: float, seed: int | None, asyncio_loop: bool, every: float, log: Path | None
) -> None:
    """Run clients against a cluster with random faults; check every response, and find leaks."""
    seed = random.randrange(2**31) if seed is None else seed
    _start_logging(log)
    click.echo(f"seed {seed}: --seed {seed} repeats the random choices, but not the timing")
    tracemalloc.start(1)
    factory = None if asyncio_loop else uvloop.new_event_loop
    counts = Counts()
    with (
        patch.object(watchdogs, "PING_EVERY_S", PING_EVERY_S),
        asyncio.Runner(loop_factory=factory) as runner,
    ):
        runner.get_loop().set_exception_handler(lambda _loop, what: _add_unhandled(counts, what))
        runner.run(_soak(random.Random(seed), counts, minutes * 60, every))
        gc.collect()  # asyncio then reports task exceptions that no code has retrieved
    sys.exit(_report(counts, seed))


async def _soak(rng: random.Random, counts: Counts, seconds: float, every_s: float) -> None:
    async with running_cluster(rng, counts) as cluster:
        status = asyncio.create_task(_print_status(counts, every_s), name="status line")
        warm_up_s = min(MAX_WARM_UP_S, WARM_UP_SHARE * seconds)
        await _run_load(cluster, warm_up_s)
        start = await _settled_footprint(cluster)
        click.echo(f"at the start: {start}")
        await _run_load(cluster, seconds - warm_up_s)
        end = await _settled_footprint(cluster, start)
        click.echo(f"at the end:   {end}")
        for leak in end.leaks_since(start):
            counts.add_defect(f"leak: {leak}")
        status.cancel()


async def _run_load(cluster: Cluster, seconds: float) -> None:
    """Run clients and faults for `seconds`; return when the cluster is idle again."""
    stopping = asyncio.Event()
    clients = Clients(
        CLIENTS,
        random.Random(cluster.rng.random()),
        url=lambda: cluster.url,
        server=cluster.server,
        attempts=SETTINGS.max_attempts,
        counts=cluster.counts,
    )
    async with viewers(cluster.agents), asyncio.TaskGroup() as group:
        group.create_task(clients.run(stopping), name="clients")
        faults = [
            group.create_task(
                inject_faults(cluster, random.Random(cluster.rng.random()), stopping),
                name="faults",
            )
            for _ in range(FAULT_TASKS)
        ]
        await asyncio.sleep(seconds)
        stopping.set()
        await asyncio.gather(*faults)
        cluster.repair()
    await cluster.wait_until_idle()


async def _settled_footprint(cluster: Cluster, start: Footprint | None = None) -> Footprint:
    """Return the footprint after `SETTLE_S`, or as soon as it shows no leak since `start`."""
    loop = asyncio.get_running_loop()
    until = loop.time() + SETTLE_S
    while loop.time() < until:
        await asyncio.sleep(SETTLE_S / 4)
        if start is not None:
            now = Footprint.now(detailed=True)
            if not now.leaks_since(start):
                return now
    await cluster.wait_until_idle()
    return Footprint.now(detailed=True)


async def _print_status(counts: Counts, every_s: float) -> None:
    started_at = time.monotonic()
    while True:
        await asyncio.sleep(every_s)
        seconds = time.monotonic() - started_at
        click.echo(f"{seconds:5.0f} s  {counts.line()} | {Footprint.now()}")


def _add_unhandled(counts: Counts, what: dict[str, object]) -> None:
    """Record a defect: an error that asyncio passed to the loop's exception handler."""
    counts.add_defect(f"unhandled: {what.get('message')}: {what.get('exception')!r}")


def _report(counts: Counts, seed: int) -> int:
    """Print the result; return the exit code."""
    click.echo(f"{counts.line()}\nfaults: {dict(counts.faults.most_common())}")
    for defect in counts.defects:
        click.echo(f"DEFECT  {defect}", err=True)
    click.echo(
        f"FAILED with seed {seed}" if counts.defects else "passed: every response correct, no leaks"
    )
    return 1 if counts.defects else 0


def _start_logging(log: Path | None) -> None:
    handler: logging.Handler = logging.NullHandler()
    if log is not None:
        handler = logging.FileHandler(log)
        handler.setFormatter(_WithFields("%(asctime)s %(levelname)s %(name)s %(message)s"))
        logging.getLogger().setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)


class _WithFields(logging.Formatter):
    """Appends a record's structured fields."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{super().format(record)} {getattr(record, 'fields', '')}"


if __name__ == "__main__":
    main()
