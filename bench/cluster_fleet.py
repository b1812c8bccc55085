"""Measures a cluster with a large fleet: `python -m bench.cluster_fleet --help`.

Coordinators, a NATS server and simulated agents run on loopback. It prints the memory and the CPU
time of each coordinator, without jobs and with some, how long it takes until every coordinator
knows every agent, and how long after one coordinator was killed. The agents and clients share the
processors with the coordinators: with fewer processors than coordinators, times are upper bounds.
"""

import argparse
import asyncio
import random
import resource
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
from msgspec import Struct
from rich import box
from rich.console import Console
from rich.table import Table

from bench.document import this_machine, write_fleet
from bench.fleet_clients import FleetClients
from bench.fleet_coordinators import Coordinators, known_agents
from bench.fleet_results import COLUMNS, FleetResult, ProcessUsage, Usage, facts, rows
from bench.simulated_agent import Response, SimulatedAgent

MODELS_PER_AGENT: Final = 3
DIALING: Final = 64
"""How many agents dial at once: as many handshakes as a processor can do in a fraction of a second.
"""
SETTLE_S: Final = 3.0
"""Between two phases: an interval of snapshots and more."""


class Options(Struct, frozen=True):
    """What is measured; see the options of the command line."""

    agents: int
    coordinators: int
    models: int
    streams: int
    events: int
    rate: float
    seconds: float


async def measure(options: Options, folder: Path) -> FleetResult:
    """Run all phases; has no timeout of its own."""
    no_limit = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=no_limit) as session:
        with Coordinators(options.coordinators, folder, session) as coordinators:
            return await _Phases(options, coordinators, session).run()


class _Phases:
    """The phases of the measurement, in order."""

    def __init__(
        self, options: Options, coordinators: Coordinators, session: aiohttp.ClientSession
    ) -> None:
        self._options = options
        self._coordinators = coordinators
        self._models = [f"model-{index}" for index in range(options.models)]
        response = Response(options.events, 1 / options.rate)
        self._clients = FleetClients(session, self._choose_port, self._models, response.body)
        dialing = asyncio.Semaphore(DIALING)
        self._agents = [
            SimulatedAgent(self._models_of(index), self._choose_port, dialing, response)
            for index in range(options.agents)
        ]

    def _models_of(self, agent: int) -> list[str]:
        first = agent * MODELS_PER_AGENT
        offered = {(first + index) % len(self._models) for index in range(MODELS_PER_AGENT)}
        return [self._models[index] for index in sorted(offered)]

    def _choose_port(self) -> int:
        return random.choice(self._coordinators.running).port

    async def run(self) -> FleetResult:
        others = self._options.coordinators - 1
        await self._coordinators.wait_until(
            lambda found: all(one["cluster_coordinators"] == others for one in found)
        )
        _say("coordinators run")
        await asyncio.sleep(SETTLE_S)
        empty, before_s = self._coordinators.memory(), self._coordinators.cpu_s()
        async with _tasks(agent.run() for agent in self._agents):
            connected_s, known_s = await self._wait_until_known()
            _say(f"all agents are known after {known_s:.1f} s")
            start_s = self._coordinators.cpu_s()
            own = await self._own_agents()
            await asyncio.sleep(SETTLE_S)
            idle = await self._usage()
            _say("measured without jobs")
            async with _tasks(self._clients.run_one() for _ in range(self._options.streams)):
                await asyncio.sleep(SETTLE_S)
                busy = await self._usage()
                answered, failed = self._clients.answered, self._clients.failed
                _say(f"measured with jobs: {answered} answered, {failed} failed")
                killed = self._coordinators.kill_last()
                moved_s, converged_s = await self._wait_until_known()
                _say(f"converged {converged_s:.1f} s after the kill")
                failed_by_kill = self._clients.failed - failed
        processes = [
            ProcessUsage(
                name=name,
                agents=own.get(name),
                start_cpu_s=start_s[name] - before_s[name],
                empty_bytes=empty[name],
                idle=idle.of(name),
                busy=busy.of(name),
            )
            for name in empty
        ]
        return FleetResult(
            agents=self._options.agents,
            coordinators=self._options.coordinators,
            streams=self._options.streams,
            rate=self._options.rate,
            processes=processes,
            connected_s=connected_s,
            known_s=known_s,
            killed_agents=own[killed.name],
            moved_s=moved_s,
            converged_s=converged_s,
            answered=answered,
            failed=failed,
            failed_by_kill=failed_by_kill,
        )

    async def _wait_until_known(self) -> tuple[float, float]:
        """Return seconds until all agents are connected, and until all coordinators know them."""
        loop, agents = asyncio.get_running_loop(), self._options.agents
        began_s = loop.time()
        await self._coordinators.wait_until(
            lambda found: sum(one["agents"] for one in found) == agents
        )
        connected_s = loop.time() - began_s
        await self._coordinators.wait_until(
            lambda found: all(known_agents(one) == agents for one in found)
        )
        return connected_s, loop.time() - began_s

    async def _own_agents(self) -> dict[str, int]:
        names = [one.name for one in self._coordinators.running]
        found = await self._coordinators.metrics()
        return {name: int(one["agents"]) for name, one in zip(names, found, strict=True)}

    async def _usage(self) -> "_Usages":
        shares = await self._coordinators.cpu_shares(self._options.seconds)
        return _Usages(shares, self._coordinators.memory())


class _Usages(Struct):
    """What all processes use, by name."""

    cpu: dict[str, float]
    memory: dict[str, int]

    def of(self, name: str) -> Usage:
        return Usage(self.cpu[name], self.memory[name])


@asynccontextmanager
async def _tasks(works: Iterable[Coroutine[None, None, None]]) -> AsyncIterator[None]:
    """Run tasks until the block ends; an error of one ends the block."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
        yield
        for task in tasks:
            task.cancel()


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _print(result: FleetResult) -> None:
    table = Table(*COLUMNS, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows(result):
        table.add_row(*row)
    Console(width=140).print(table)
    for fact in facts(result):
        print(fact)


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.cluster_fleet", description=__doc__)
    add = parser.add_argument
    add("--agents", type=_at_least(1), default=1000)
    add("--coordinators", type=_at_least(2), default=4)
    add("--models", type=_at_least(MODELS_PER_AGENT), default=30, help="models of the whole fleet")
    add("--streams", type=_at_least(1), default=32, help="clients, with one request each")
    add("--events", type=_at_least(1), default=100, help="events of each response")
    add("--rate", type=_at_least(1), default=20, help="events per second of each response")
    add("--seconds", type=_at_least(1), default=15, help="how long CPU time is measured")
    add("--timeout", type=_at_least(1), default=240, help="seconds after which it fails")
    add("--write-docs", action="store_true", help="replace the table in docs/scaling.md")
    return parser.parse_args(arguments)


def _at_least(lowest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if (value := int(text)) < lowest:
            raise argparse.ArgumentTypeError(f"must be at least {lowest}")
        return value

    return number


def main(arguments: argparse.Namespace) -> None:
    """Measure, print and exit; with 1 if the time was not enough."""
    _, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, highest))
    options = Options(**{name: getattr(arguments, name) for name in Options.__struct_fields__})
    machine = this_machine()

    async def run(folder: Path) -> FleetResult:
        async with asyncio.timeout(arguments.timeout):
            return await measure(options, folder)

    with tempfile.TemporaryDirectory() as folder:
        try:
            result = asyncio.run(run(Path(folder)))
        except TimeoutError:
            sys.exit(f"not done after {arguments.timeout} s")
    _print(result)
    if arguments.write_docs:
        write_fleet(machine, result)


if __name__ == "__main__":
    main(parse_options(sys.argv[1:]))
