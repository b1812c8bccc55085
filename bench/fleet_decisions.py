"""Measures what a large fleet costs one coordinator per request and per snapshot, without I/O.

`python -m bench.fleet_decisions --help`. It prints CPU times in milliseconds. They depend on the
machine; to compare two versions, run both in turn: `--against FOLDER` runs the script also with the
code in another checkout, and prints the ratios.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from provider_agent.coordinator.agents.connected_agent import ConnectedAgent
from provider_agent.coordinator.agents.dispatcher import Dispatcher
from provider_agent.coordinator.agents.fleet import Fleet
from provider_agent.coordinator.agents.waiting_requests import Wanted
from provider_agent.coordinator.cluster.member import ClusterMember
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
from provider_agent.protocol.formats import Operation
from provider_agent.protocol.frames import (
    AgentFrame,
    AgentLimits,
    BackendLoad,
    Capabilities,
    Heartbeat,
    ModelLoad,
    ModelOffer,
)
from provider_agent.protocol.job import Job
from provider_agent.protocol.state import State

MODELS_PER_AGENT: Final = 3
SLOTS: Final = 8
WAITING: Final = 256
"""The default limit of waiting requests."""
SETTINGS: Final = CoordinatorSettings(max_agents=16_384)
_OPERATIONS: Final = ["chat", "completions", "embeddings"]


class FleetRig:
    """A coordinator with agents, and another one that knows them from snapshots.

    Args:
        agents: how many agents.
        models: how many models the whole fleet offers.
    """

    def __init__(self, agents: int, models: int) -> None:
        self.holder_fleet = Fleet(SETTINGS, time.monotonic)
        self.edge_fleet = Fleet(SETTINGS, time.monotonic)
        self.holder = _member(b"H" * 16, self.holder_fleet)
        self.edge = _member(b"E" * 16, self.edge_fleet)
        self.agents = [self._join(number, models) for number in range(agents)]
        self.exchange()

    def _join(self, number: int, models: int) -> ConnectedAgent:
        protocol = CoordinatorProtocol(nonce=bytes(32), name="", authorities=[])
        protocol.state = State.OPEN
        agent = ConnectedAgent(
            protocol=protocol,
            session_id=number.to_bytes(16, "big"),
            registry=self.holder_fleet,
            settings=SETTINGS,
            clock=time.monotonic,
            wake=lambda: None,
            close=lambda _: None,
            check_alive=lambda report: report(True),
            remote="192.0.2.7",
        )
        agent.public_key = number.to_bytes(32, "big")
        self.holder_fleet.join(agent)
        names = _models_of(number, models)
        offers = [ModelOffer(name, [], _OPERATIONS, None, False, "", SLOTS) for name in names]
        limits = AgentLimits(SLOTS * len(names))
        _receive(agent, Capabilities(1, offers, limits))
        _receive(agent, _heartbeat(names, 0))
        return agent

    def exchange(self) -> None:
        """Send a snapshot from the one to the other."""
        for message in self.holder.snapshot():
            self.edge.receive_snapshot(message)

    def change(self, number: int) -> None:
        """Let every agent report other numbers."""
        for agent in self.agents:
            assert agent.offers is not None
            _receive(agent, _heartbeat(list(agent.offers.models), number))

    def fill(self) -> None:
        """Give every agent as many jobs as it has slots."""
        for index, agent in enumerate(self.agents):
            assert agent.offers is not None
            for position, model_id in enumerate(agent.offers.models):
                for slot in range(SLOTS):
                    job_id = (index << 16 | position << 8 | slot).to_bytes(16, "big")
                    agent.submit(Job(job_id, model_id, "openai", b"{}", 60_000, operation="chat"))


def _receive(agent: ConnectedAgent, frame: AgentFrame) -> None:
    agent.receive_message(VERSION_1.encode([frame]))


def _models_of(agent: int, models: int) -> list[str]:
    first = agent * MODELS_PER_AGENT
    count = min(MODELS_PER_AGENT, models)
    return sorted({f"some-vendor/model-{(first + index) % models}" for index in range(count)})


def _member(own_id: bytes, fleet: Fleet) -> ClusterMember:
    member = ClusterMember(
        own_id,
        fleet,
        SETTINGS,
        interval_s=2.0,
        clock=time.monotonic,
        wake=lambda: None,
        snapshot_changed=lambda: None,
        ask=lambda _coordinator, _message, _answered: None,
    )
    member.set_connected(True)
    return member


def _heartbeat(names: list[str], number: int) -> Heartbeat:
    models = [
        ModelLoad(name, "loaded", 0, 0, 0, number % 7 / 100, 500.0, 50.0 + number % 5)
        for name in names
    ]
    backends = [BackendLoad("vllm", True, 0, SLOTS, models=models)]
    return Heartbeat(0, 0, SLOTS, None, None, None, None, backends)


def cpu_ms(work: Callable[[], object], seconds: float) -> float:
    """Return the median CPU time of one call, of as many calls as fit into the time."""
    times: list[float] = []
    ends_at = time.monotonic() + seconds
    while len(times) < 5 or time.monotonic() < ends_at:
        began = time.process_time_ns()
        work()
        times.append((time.process_time_ns() - began) / 1e6)
    return median(times)


def measure(agents: int, seconds: float) -> Iterator[tuple[str, float]]:
    """Yield what was measured, and its CPU time in milliseconds."""

    def pick(fleet: Fleet) -> Callable[[], object]:
        return lambda: fleet.pick("some-vendor/model-0", Operation.CHAT)

    rig = FleetRig(agents, MODELS_PER_AGENT)
    yield "choose, all agents offer the model, remote", cpu_ms(pick(rig.edge_fleet), seconds)
    yield "choose, all agents offer the model, connected", cpu_ms(pick(rig.holder_fleet), seconds)
    rig = FleetRig(agents, 10 * MODELS_PER_AGENT)
    yield "choose, a tenth offers the model, remote", cpu_ms(pick(rig.edge_fleet), seconds)
    yield "choose, a tenth offers the model, connected", cpu_ms(pick(rig.holder_fleet), seconds)
    yield "snapshot, nothing changed: create", cpu_ms(rig.holder.snapshot, seconds)
    yield "snapshot, nothing changed: receive", _receive_ms(rig, seconds, lambda _: None)
    yield "snapshot, every agent changed: create", _create_ms(rig, seconds)
    yield "snapshot, every agent changed: receive", _receive_ms(rig, seconds, rig.change)
    rig.fill()
    rig.exchange()
    for models in (1, 30):
        name = f"{WAITING} requests for {models} models wait, all busy: check the queue"
        yield f"{name}, remote", asyncio.run(_check_ms(rig.edge_fleet, models, seconds))
        yield f"{name}, connected", asyncio.run(_check_ms(rig.holder_fleet, models, seconds))


def _create_ms(rig: FleetRig, seconds: float) -> float:
    times = []
    ends_at = time.monotonic() + seconds
    number = 0
    while time.monotonic() < ends_at:
        number += 1
        rig.change(number)
        began = time.process_time_ns()
        rig.holder.snapshot()
        times.append((time.process_time_ns() - began) / 1e6)
    return median(times)


def _receive_ms(rig: FleetRig, seconds: float, change: Callable[[int], None]) -> float:
    times = []
    ends_at = time.monotonic() + seconds
    number = 1000
    while time.monotonic() < ends_at:
        number += 1
        change(number)
        messages = rig.holder.snapshot()
        began = time.process_time_ns()
        for message in messages:
            rig.edge.receive_snapshot(message)
        times.append((time.process_time_ns() - began) / 1e6)
    return median(times)


async def _check_ms(fleet: Fleet, models: int, seconds: float) -> float:
    dispatcher = Dispatcher(fleet, SETTINGS, time.monotonic)

    def no_job() -> Job:
        raise AssertionError("an agent has room")

    waiting = [
        asyncio.create_task(
            dispatcher.submit(
                Wanted(number, f"some-vendor/model-{number % models}", Operation.CHAT), no_job, 3600
            )
        )
        for number in range(WAITING)
    ]
    await asyncio.sleep(0)
    assert dispatcher.queued == WAITING
    times = []
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        began = time.process_time_ns()
        fleet.capacity_changed()
        await asyncio.sleep(0)  # the dispatcher checks the queue
        times.append((time.process_time_ns() - began) / 1e6)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    return median(times)


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet_decisions", description=__doc__)
    add = parser.add_argument
    add("--agents", type=int, default=1000)
    add("--seconds", type=float, default=1.0, help="how long each figure is measured")
    add("--against", type=Path, help="a checkout whose code is measured too")
    add("--json", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _other(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Measure the code of another checkout, with this script."""
    path = os.pathsep.join([str(folder / "src"), str(Path(__file__).parent.parent)])
    command = [sys.executable, "-P", __file__, "--json"]
    command += ["--agents", str(options.agents), "--seconds", str(options.seconds)]
    run = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, check=True, stdout=subprocess.PIPE
    )
    found: dict[str, float] = json.loads(run.stdout)
    return found


def main(options: argparse.Namespace) -> None:
    """Measure and print."""
    if options.json:
        print(json.dumps(dict(measure(options.agents, options.seconds))))
        return
    other = {} if options.against is None else _other(options.against.resolve(), options)
    for name, spent in measure(options.agents, options.seconds):
        print(f"{name:84} {spent:8.3f} ms", end="", flush=True)
        print(f", other {other[name]:8.3f} ms, {other[name] / spent:5.1f} ×" if other else "")


if __name__ == "__main__":
    main(parse_options(sys.argv[1:]))
