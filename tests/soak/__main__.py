"""`python -m tests.soak`: see CONTRIBUTING.md, "Soak"."""

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
from tests.soak import faults
from tests.soak.clients import Clients
from tests.soak.footprint import Footprint
from tests.soak.tally import Tally
from tests.soak.world import PING_EVERY_S, SETTINGS, World, world

CLIENTS = 16
TROUBLEMAKERS = 2

WARM_UP = 0.25
"""This part of the time comes before the start value is taken; not over `WARM_UP_S`."""
WARM_UP_S = 60.0

SETTLE_S = 20.0
"""Kept connections are closed, and timers run out."""


@click.command()
@click.option("--minutes", default=5.0, show_default=True, help="How long.")
@click.option("--seed", type=int, help="Of every random choice; chosen and told without.")
@click.option("--asyncio-loop", is_flag=True, help="asyncio's own event loop instead of uvloop's.")
@click.option("--every", default=10.0, show_default=True, help="Seconds between two status lines.")
@click.option("--log", type=click.Path(path_type=Path), help="File for the log of everything.")
def main(
    minutes: float, seed: int | None, asyncio_loop: bool, every: float, log: Path | None
) -> None:
    """Run everything at once with random faults, and see that nothing is wrong or left behind."""
    seed = random.randrange(2**31) if seed is None else seed
    _start_logging(log)
    click.echo(f"seed {seed}: the same choices again with --seed {seed} (the timing differs)")
    tracemalloc.start(1)
    factory = None if asyncio_loop else uvloop.new_event_loop
    tally = Tally()
    with (
        patch.object(watchdogs, "PING_EVERY_S", PING_EVERY_S),
        asyncio.Runner(loop_factory=factory) as runner,
    ):
        runner.get_loop().set_exception_handler(lambda _loop, what: _unhandled(tally, what))
        runner.run(_soak(random.Random(seed), tally, minutes * 60, every))
        gc.collect()  # what was never retrieved or closed is told now
    sys.exit(_verdict(tally, seed))


async def _soak(dice: random.Random, tally: Tally, seconds: float, every_s: float) -> None:
    async with world(dice, tally) as here:
        telling = asyncio.create_task(_tell(tally, every_s), name="status line")
        warm_up_s = min(WARM_UP_S, WARM_UP * seconds)
        await _trouble(here, warm_up_s)
        start = await _at_rest(here)
        click.echo(f"start value: {start}")
        await _trouble(here, seconds - warm_up_s)
        end = await _at_rest(here, start)
        click.echo(f"end value:   {end}")
        for leak in end.leaks_since(start):
            tally.defect(f"left behind: {leak}")
        telling.cancel()


async def _trouble(here: World, seconds: float) -> None:
    """Clients and faults for so long; returns when the last request is over."""
    stopping = asyncio.Event()
    clients = Clients(
        CLIENTS,
        random.Random(here.dice.random()),
        url=lambda: here.url,
        server=here.server,
        attempts=SETTINGS.max_attempts,
        tally=here.tally,
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(clients.run(stopping), name="clients")
        makers = [
            group.create_task(
                faults.run(here, random.Random(here.dice.random()), stopping), name="faults"
            )
            for _ in range(TROUBLEMAKERS)
        ]
        await asyncio.sleep(seconds)
        stopping.set()
        await asyncio.gather(*makers)
        here.repair()
    await here.quiet()


async def _at_rest(here: World, start: Footprint | None = None) -> Footprint:
    """The footprint when everything has settled; at the end as soon as nothing is left behind."""
    loop = asyncio.get_running_loop()
    until = loop.time() + SETTLE_S
    while loop.time() < until:
        await asyncio.sleep(SETTLE_S / 4)
        if start is not None:
            now = Footprint.now(detailed=True)
            if not now.leaks_since(start):
                return now
    await here.quiet()
    return Footprint.now(detailed=True)


async def _tell(tally: Tally, every_s: float) -> None:
    began = time.monotonic()
    while True:
        await asyncio.sleep(every_s)
        click.echo(f"{time.monotonic() - began:5.0f} s  {tally.line()} | {Footprint.now()}")


def _unhandled(tally: Tally, what: dict[str, object]) -> None:
    tally.defect(f"unhandled: {what.get('message')}: {what.get('exception')!r}")


def _verdict(tally: Tally, seed: int) -> int:
    click.echo(f"{tally.line()}\nfaults: {dict(tally.faults.most_common())}")
    for defect in tally.defects:
        click.echo(f"DEFECT  {defect}", err=True)
    click.echo(
        f"FAILED with seed {seed}"
        if tally.defects
        else "passed: no wrong byte, one end each, nothing left behind"
    )
    return 1 if tally.defects else 0


def _start_logging(log: Path | None) -> None:
    handler: logging.Handler = logging.NullHandler()
    if log is not None:
        handler = logging.FileHandler(log)
        handler.setFormatter(_WithFields("%(asctime)s %(levelname)s %(name)s %(message)s"))
        logging.getLogger().setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)


class _WithFields(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{super().format(record)} {getattr(record, 'fields', '')}"


if __name__ == "__main__":
    main()
