"""Measures what relays cost, relative to each other: `python -m bench.relay --help`.

For each load and relay, the load generator in C (`bench/load/`) plays the inference servers and the
coordinator or the clients, and checks every byte. The relays run alternately, each in new
processes; only ratios within one run are comparable between machines.
"""

import argparse
import asyncio
import os
import platform
import resource
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct
from rich import box
from rich.console import Console
from rich.table import Table

from bench import process_usage, python_rig, relays
from bench.load_generator import LoadFailed, LoadGenerator, compile_load, compiler
from bench.loads import LOADS, QUICK, Load
from bench.relays import AGENT, COORDINATOR, NGINX, OBVIOUS, RECEIPTS, Place, Relay
from bench.results import COLUMNS, Measured, Result, failures, markdown, rows

DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "performance.md"
TABLE_BEGIN: Final = "<!-- relay table: written by make bench ARGS=--write-docs -->\n"
TABLE_END: Final = "<!-- end of the relay table -->\n"


def measure(load: Load, relay: Relay, program: Path) -> Measured:
    """Run one relay under one load.

    Raises:
        LoadFailed: the relay does not work, or violated the protocol. Its log is printed.
    """
    port = relays.free_port() if relay.http else 0
    options = [*load.arguments(), *relay.load_options(port)]
    with tempfile.TemporaryDirectory() as folder, LoadGenerator(program, options) as generator:
        place = Place(Path(folder), generator.servers, generator.coordinator, port, load.streams)
        running = relays.start(relay, place)
        try:
            generator.wait_until_ready(running.runs)
            idle_bytes = process_usage.resident_bytes(running.pid)
            process_usage.reset_peak(running.pid)
            before_ns = process_usage.cpu_ns(running.pid)
            figures = generator.run()
            used_ns = process_usage.cpu_ns(running.pid) - before_ns
            peak_bytes = process_usage.peak_resident_bytes(running.pid)
        except LoadFailed:
            print(f"{load.name}, {relay.name}: failed\n{running.log()}", file=sys.stderr)
            raise
        finally:
            generator.stop()
            running.stop()
    units = load.streams * load.jobs * (1 if load.per_job else load.events)
    return Measured(used_ns / units / 1000, idle_bytes, peak_bytes, figures)


def run(load: Load, compared: list[Relay], rounds: int, program: Path) -> Result:
    """Run all relays under one load, alternately; one that fails is left out from then on."""
    working = [relay for relay in compared if _suits(relay, load)]
    measured: dict[str, list[Measured]] = {relay.name: [] for relay in working}
    for _ in range(rounds):
        for relay in list(working):
            try:
                measured[relay.name].append(measure(load, relay, program))
            except LoadFailed:
                working.remove(relay)
    return Result(load, measured, rounds)


def _suits(relay: Relay, load: Load) -> bool:
    if load.streams > relay.max_streams:
        return False
    if relay.command and load.backends > 1:
        return False
    return load.coordinator or relay is not COORDINATOR


def _raise_open_files() -> None:
    """Allow this process and its children as many open files as they may have.

    The load generator has up to two connections per stream.
    """
    _, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, highest))


def choose_relays(options: argparse.Namespace) -> list[Relay]:
    """The relays that are available."""
    chosen = [OBVIOUS, AGENT]
    if shutil.which("nginx"):
        chosen += [NGINX, COORDINATOR]
    else:
        print("nginx is not on PATH: no ratios to it", file=sys.stderr)
        chosen.append(COORDINATOR)
    if options.receipts:
        chosen.append(RECEIPTS)
    if options.litellm_command:
        chosen.append(Relay("litellm", http=True, loose=True, command=options.litellm_command))
    if options.rust_command:
        chosen.append(Relay("rust agent", max_streams=256, command=options.rust_command))
    return chosen


class Machine(Struct):
    """Where and when the benchmark ran.

    Attributes:
        cores: number of processors.
        busy: the load average of the last minute before the start: how many other processes ran.
        python: version of the relays in Python.
        kernel: version of the operating system.
        month: month and year.
    """

    cores: int
    busy: float
    python: str
    kernel: str
    month: str

    def __str__(self) -> str:
        return (
            f"{self.cores} cores, loopback, Python {self.python}; {self.month}. "
            f"Load average before the start: {self.busy:.1f}."
        )


def this_machine() -> Machine:
    """Describe the machine as it is now."""
    month = f"{datetime.now(tz=UTC):%B %Y}"
    cores, busy = os.cpu_count() or 1, os.getloadavg()[0]
    return Machine(cores, busy, platform.python_version(), platform.release(), month)


def write_document(machine: Machine, results: list[Result]) -> None:
    """Replace the table in docs/performance.md."""
    before, _, rest = DOCUMENT.read_text().partition(TABLE_BEGIN)
    _, _, after = rest.partition(TABLE_END)
    DOCUMENT.write_text(
        f"{before}{TABLE_BEGIN}\n{machine}\n\n{markdown(results)}\n{TABLE_END}{after}"
    )


def write_json(path: Path, machine: Machine, results: list[Result]) -> None:
    """Write everything that was measured, with absolute figures."""
    encoded = msgspec.json.encode({"machine": machine, "results": results})
    path.write_bytes(msgspec.json.format(encoded))


def main(options: argparse.Namespace) -> None:
    """Run the chosen loads and print the table."""
    if compiler() is None:
        print(
            "The load generator in C needs Linux and a C compiler (cc or gcc) on PATH: the slower "
            "one in Python runs instead, without nginx and with fewer loads.",
            file=sys.stderr,
        )
        asyncio.run(python_rig.main(options.rounds, options.only, receipts=options.receipts))
        return
    _raise_open_files()
    machine = this_machine()
    table = Table(*COLUMNS, box=box.SIMPLE_HEAD, pad_edge=False)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        program = compile_load(Path(folder))
        compared = choose_relays(options)
        for load in QUICK if options.quick else LOADS:
            if options.only in load.name:
                print(load.name, file=sys.stderr, flush=True)
                results.append(run(load, compared, options.rounds, program))
    for result in results:
        for row in rows(result):
            table.add_row(*row)
    Console(width=160).print(table)
    if options.json:
        write_json(options.json, machine, results)
    if options.write_docs:
        write_document(machine, results)
    if any(failures(result) for result in results):
        sys.exit(1)


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.relay", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="run only loads whose name contains this")
    parser.add_argument("--quick", action="store_true", help="a smoke run of seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument(
        "--write-docs", action="store_true", help="replace the table in docs/performance.md"
    )
    parser.add_argument(
        "--receipts", action="store_true", help="also run the agent with signed receipts"
    )
    parser.add_argument(
        "--litellm-command",
        metavar="COMMAND",
        help="a LiteLLM proxy that listens on {port} and sends the model bench to {server}",
    )
    parser.add_argument(
        "--rust-command",
        metavar="COMMAND",
        help="the existing Rust agent; it runs in a folder with an agent.toml, and dials "
        "{coordinator}",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(parse_options(sys.argv[1:]))
