"""The coordinators and the NATS server of `bench.cluster_fleet`, as processes."""

import asyncio
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

import aiohttp

from bench.cluster_relay import member_command, nats_command
from bench.process_usage import cpu_ns, resident_bytes
from bench.relays import free_port

POLL_S: Final = 0.1
_STOP_S: Final = 15.0
_PREFIX: Final = "coordinator_"


def parse_metrics(text: str) -> dict[str, float]:
    """The gauges without labels of a coordinator's `/metrics`, by name without its prefix."""
    values = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name.startswith(_PREFIX) and "{" not in name:
            values[name.removeprefix(_PREFIX)] = float(value)
    return values


def known_agents(metrics: dict[str, float]) -> int:
    """How many agents a coordinator knows: its own, and those of the others."""
    return int(metrics["agents"] + metrics["cluster_agents"])


class RunningCoordinator:
    """One coordinator.

    Attributes:
        name: its name in the table.
        port: where it listens, on loopback.
        pid: its process.
    """

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.port = port
        self.pid = process.pid
        self.process = process

    def __repr__(self) -> str:
        return f"<RunningCoordinator {self.name} port={self.port} pid={self.pid}>"


class Coordinators:
    """The processes of the cluster. They are stopped when the `with` block ends.

    Args:
        number: how many coordinators.
        folder: an existing folder for their logs.
        session: requests their metrics.

    Attributes:
        running: those that were not killed.
        nats_pid: the process of the NATS server.
    """

    def __init__(self, number: int, folder: Path, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._folder = folder
        nats_port = free_port()
        self._processes = [self._start("nats", nats_command(nats_port))]
        self.nats_pid = self._processes[0].pid
        self.running: list[RunningCoordinator] = []
        for index in range(number):
            name, port = str(index + 1), free_port()
            process = self._start(name, member_command(port, nats_port))
            self._processes.append(process)
            self.running.append(RunningCoordinator(name, port, process))

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kill_last(self) -> RunningCoordinator:
        """Kill one coordinator with SIGKILL, and return it."""
        killed = self.running.pop()
        killed.process.send_signal(signal.SIGKILL)
        killed.process.wait()
        return killed

    async def metrics(self) -> list[dict[str, float]]:
        """The metrics of each running coordinator; empty for one that does not answer."""
        return await asyncio.gather(*(self._metrics_of(one) for one in self.running))

    async def _metrics_of(self, coordinator: RunningCoordinator) -> dict[str, float]:
        try:
            url = f"http://127.0.0.1:{coordinator.port}/metrics"
            async with self._session.get(url) as response:
                return parse_metrics(await response.text())
        except aiohttp.ClientError:
            return {}

    async def wait_until(self, reached: Callable[[list[dict[str, float]]], bool]) -> None:
        """Wait until the metrics of all running coordinators meet a condition; has no timeout.

        Raises:
            RuntimeError: a coordinator has exited; the text has the end of its log.
        """
        while True:
            for one in self.running:
                if one.process.poll() is not None:
                    log = (self._folder / f"{one.name}.log").read_text(errors="replace")
                    raise RuntimeError(f"coordinator {one.name} has exited:\n{log[-2000:]}")
            metrics = await self.metrics()
            if all(metrics) and reached(metrics):
                return
            await asyncio.sleep(POLL_S)

    def pids(self) -> dict[str, int]:
        """The process of each running coordinator and of NATS, by name."""
        return {**{one.name: one.pid for one in self.running}, "NATS": self.nats_pid}

    def memory(self) -> dict[str, int]:
        """The resident bytes of each process."""
        return {name: resident_bytes(pid) for name, pid in self.pids().items()}

    def cpu_s(self) -> dict[str, float]:
        """The CPU time of each process so far, in seconds."""
        return {name: cpu_ns(pid) / 1e9 for name, pid in self.pids().items()}

    async def cpu_shares(self, seconds: float) -> dict[str, float]:
        """The share of a core that each process uses during the next `seconds`."""
        loop = asyncio.get_running_loop()
        began_s, before_s = loop.time(), self.cpu_s()
        await asyncio.sleep(seconds)
        lasted_s, after_s = loop.time() - began_s, self.cpu_s()
        return {name: (after_s[name] - before_s[name]) / lasted_s for name in before_s}
