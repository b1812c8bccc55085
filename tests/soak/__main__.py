"""`python -m tests.soak`: run the soak test, which CONTRIBUTING.md ("Soak test") describes."""

import asyncio
import functools
import gc
import logging
import random
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import click
import uvloop

from provider_agent.agent.link import watchdogs
from tests.soak.clients import Clients, Load
from tests.soak.cluster.run import soak_cluster
from tests.soak.counts import Counts
from tests.soak.faults import inject_faults
from tests.soak.footprint import Footprint
from tests.soak.managed_agent import PING_EVERY_S
from tests.soak.system import SETTINGS, System, running_system
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
@click.option("--minutes", default=5.0, show_default=True, help="Duration of each part.")
@click.option("--one-process", "parts", flag_value="one process", help="Only the first part.")
@click.option("--cluster", "parts", flag_value="cluster", help="Only the second part.")
@click.option("--seed", type=int, help="Seed of every random choice; printed if not given.")
@click.option("--asyncio-loop", is_flag=True, help="asyncio's own event loop instead of uvloop's.")
@click.option("--every", default=10.0, show_default=True, help="Seconds between two status lines.")
@click.option(
    "--log",
    type=click.Path(path_type=Path),
    help="File for the log; those of the cluster's processes: FILE.cluster/.",
)
def main(
    minutes: float,
    parts: str | None,
    seed: int | None,
    asyncio_loop: bool,
    every: float,
    log: Path | None,
) -> None:
    """Run clients against agents with random faults; check every response, and find leaks.

    The first part runs in one process, the second is a cluster of processes.
    """
    seed = random.randrange(2**31) if seed is None else seed
    _start_logging(log)
    click.echo(f"seed {seed}: --seed {seed} repeats the random choices, but not the timing")
    factory = None if asyncio_loop else uvloop.new_event_loop
    code = 0
    for name, soak in (("one process", _soak), ("cluster", functools.partial(_soak_cluster, log))):
        if parts not in (None, name):
            continue
        click.echo(f"{name}: {minutes:g} minutes")
        counts = Counts()
        with asyncio.Runner(loop_factory=factory) as runner:
            handler = functools.partial(_add_unhandled, counts)
            runner.get_loop().set_exception_handler(handler)
            runner.run(soak(random.Random(seed), counts, minutes * 60, every))
            gc.collect()  # asyncio then reports task exceptions that no code has retrieved
        code |= _report(counts, seed)
    sys.exit(code)


async def _soak(rng: random.Random, counts: Counts, seconds: float, every_s: float) -> None:
    tracemalloc.start(1)
    with patch.object(watchdogs, "PING_EVERY_S", PING_EVERY_S):
        await _soak_one_process(rng, counts, seconds, every_s)
    tracemalloc.stop()


async def _soak_one_process(
    rng: random.Random, counts: Counts, seconds: float, every_s: float
) -> None:
    async with running_system(rng, counts) as system:
        status = asyncio.create_task(
            _print_status(counts, every_s, lambda: f" | {Footprint.now()}"), name="status line"
        )
        warm_up_s = min(MAX_WARM_UP_S, WARM_UP_SHARE * seconds)
        await _run_load(system, warm_up_s)
        start = await _settled_footprint(system)
        click.echo(f"at the start: {start}")
        await _run_load(system, seconds - warm_up_s)
        end = await _settled_footprint(system, start)
        click.echo(f"at the end:   {end}")
        for leak in end.leaks_since(start):
            counts.add_defect(f"leak: {leak}")
        status.cancel()


async def _soak_cluster(
    log: Path | None, rng: random.Random, counts: Counts, seconds: float, every_s: float
) -> None:
    status = asyncio.create_task(_print_status(counts, every_s, str), name="status line")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) if log is None else _folder_beside(log)
        await soak_cluster(rng, counts, seconds, folder)
    status.cancel()


async def _run_load(system: System, seconds: float) -> None:
    """Run clients and faults for `seconds`; return when the system is idle again."""
    stopping = asyncio.Event()
    clients = Clients(
        Load(clients=CLIENTS, attempts=SETTINGS.max_attempts),
        random.Random(system.rng.random()),
        url=lambda: system.url,
        server=system.server,
        counts=system.counts,
    )
    async with viewers(system.agents), asyncio.TaskGroup() as group:
        group.create_task(clients.run(stopping), name="clients")
        faults = [
            group.create_task(
                inject_faults(system, random.Random(system.rng.random()), stopping),
                name="faults",
            )
            for _ in range(FAULT_TASKS)
        ]
        await asyncio.sleep(seconds)
        stopping.set()
        await asyncio.gather(*faults)
        system.repair()
    await system.wait_until_idle()


async def _settled_footprint(system: System, start: Footprint | None = None) -> Footprint:
    """Return the footprint after `SETTLE_S`, or as soon as it shows no leak since `start`."""
    loop = asyncio.get_running_loop()
    until = loop.time() + SETTLE_S
    while loop.time() < until:
        await asyncio.sleep(SETTLE_S / 4)
        if start is not None:
            now = Footprint.now(detailed=True)
            if not now.leaks_since(start):
                return now
    await system.wait_until_idle()
    return Footprint.now(detailed=True)


async def _print_status(counts: Counts, every_s: float, footprint: Callable[[], str]) -> None:
    started_at = time.monotonic()
    while True:
        await asyncio.sleep(every_s)
        seconds = time.monotonic() - started_at
        click.echo(f"{seconds:5.0f} s  {counts.line()}{footprint()}")


def _add_unhandled(
    counts: Counts, _loop: asyncio.AbstractEventLoop, what: dict[str, object]
) -> None:
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


def _folder_beside(log: Path) -> Path:
    folder = log.with_name(f"{log.name}.cluster")
    folder.mkdir(exist_ok=True)
    return folder


class _WithFields(logging.Formatter):
    """Appends a record's structured fields."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{super().format(record)} {getattr(record, 'fields', '')}"


if __name__ == "__main__":
    main()
