"""The benchmark where there is no C compiler: inference server and coordinator in Python.

They need more CPU time than the relay between them (the agent or `bench.obvious_relay`), so that
they limit the event rate.
"""

import asyncio
import os
import statistics
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path

from msgspec import Struct
from rich import box
from rich.console import Console
from rich.table import Table

from bench.coordinator_rig import CoordinatorRig, Received

START_S = 30.0
"""Timeout from the start of the relay to its offer of models."""
RUN_S = 60.0
"""Timeout of one load."""


class Load(Struct):
    """One load, which every relay runs.

    Attributes:
        name: its label in the table.
        streams: concurrent streams.
        events: number of events per stream.
        rate: events per second and stream; 0: as fast as possible.
    """

    name: str
    streams: int
    events: int
    rate: float


LOADS = [
    Load("1 stream, 50/s", 1, 250, 50),
    Load("64 streams, 50/s", 64, 250, 50),
    Load("256 streams, 40/s", 256, 200, 40),
    Load("32 streams, flat out", 32, 5_000, 0),
    Load("1000 short jobs of 1 event", 1000, 1, 0),
]


class Measured(Struct):
    """The result of one run.

    Attributes:
        cpu_us: the relay's CPU time per event, in microseconds.
        received: what arrived at the coordinator.
    """

    cpu_us: float
    received: Received


async def measure(load: Load, relay: str) -> Measured:
    """Run `relay` ("agent", "receipts" or "obvious") under one load."""
    rig = CoordinatorRig(load.streams, receipts=relay == "receipts")
    connect_url = await rig.start()
    module = [sys.executable, "-m", "bench.sse_server", str(load.events), str(load.rate)]
    server = await asyncio.create_subprocess_exec(*module, stdout=PIPE)
    assert server.stdout is not None
    server_url = f"http://127.0.0.1:{int(await server.stdout.readline())}"
    with tempfile.TemporaryDirectory() as folder:
        agent = await start(relay, connect_url, server_url, Path(folder), load.streams)
        try:
            await asyncio.wait_for(rig.offered.wait(), START_S)
            before = _cpu_s(agent)
            rig.go.set()
            await asyncio.wait_for(rig.done.wait(), RUN_S)
            used = _cpu_s(agent) - before
            if rig.failure:
                raise SystemExit(f"{load.name}, {relay}: a job failed: {rig.failure}")
        finally:
            for process in (agent, server):
                with suppress(ProcessLookupError):
                    process.terminate()
            await asyncio.gather(agent.wait(), server.wait())
            await rig.stop()
    return Measured(used / (load.streams * load.events) * 1e6, rig.received)


async def start(
    relay: str, connect_url: str, server_url: str, folder: Path, streams: int
) -> Process:
    """Start a relay that dials `connect_url` and sends up to `streams` jobs to one server."""
    if relay == "obvious":
        arguments = ["-m", "bench.obvious_relay", connect_url, server_url]
    else:
        config = folder / "agent.toml"
        config.write_text(
            f'[coordinator]\nurl = "{connect_url}"\n'
            f'[identity]\nkey_path = "{folder}/identity.key"\n'
            f'[[backends]]\nkind = "openai_compatible"\nurl = "{server_url}"\n'
            f"max_concurrent = {streams}\n[limits]\nmax_concurrent = {streams}\n"
            '[observability]\nprometheus_addr = ""\nlog_level = "warning"\n'
        )
        arguments = ["-m", "provider_agent.agent.cli.main", "run", "-c", str(config)]
    return await asyncio.create_subprocess_exec(sys.executable, *arguments)


def _cpu_s(process: Process) -> float:
    """User and system time of a process so far (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _latency(received: Received, share: float) -> str:
    """Format the latency, in milliseconds, that this share of the chunks does not exceed."""
    ordered = sorted(received.latencies_ms)
    return f"{ordered[int(share * (len(ordered) - 1))]:.2f}" if ordered else "-"


async def main(rounds: int, only: str, *, receipts: bool) -> None:
    """Run every load and print the table."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("load", "relay", "CPU µs/event", "p50 ms", "p99 ms", "events/s", "ev/message"):
        table.add_column(title, justify="left" if title in ("load", "relay") else "right")
    table.add_column("agent/obvious", justify="right")
    for load in LOADS:
        if only and only not in load.name:
            continue
        costs: dict[str, list[Measured]] = {"obvious": [], "agent": []}
        if receipts:
            costs["receipts"] = []
        for _ in range(rounds):
            for relay, measured in costs.items():
                measured.append(await measure(load, relay))
        for relay, measured in costs.items():
            middle = sorted(measured, key=lambda one: one.cpu_us)[len(measured) // 2]
            got = middle.received
            ratio = statistics.median(
                ours.cpu_us / theirs.cpu_us
                for ours, theirs in zip(measured, costs["obvious"], strict=True)
            )
            table.add_row(
                load.name if relay == "obvious" else "",
                relay,
                f"{middle.cpu_us:.1f}",
                _latency(got, 0.5),
                _latency(got, 0.99),
                f"{got.events / got.seconds:,.0f}",
                f"{got.events / got.messages:.1f}",
                "" if relay == "obvious" else f"{ratio:.2f}",
            )
    Console(width=110).print(table)
