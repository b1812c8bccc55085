"""Measures what relays cost, relative to each other: `python -m bench.relay --help`.

For each load and relay, the load generator in C (`bench/load/`) plays the inference servers and the
coordinator or the clients, and checks every byte. The relays run alternately, each in new
processes; only ratios within one run are comparable between machines.
"""

import argparse
import asyncio
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

from msgspec.structs import replace
from rich import box
from rich.console import Console
from rich.table import Table

from bench import cluster_relay, dialects, process_usage, python_rig, relays
from bench.document import (
    this_machine,
    write_cluster,
    write_dialects,
    write_json,
    write_relays,
    write_rest,
)
from bench.load_generator import LoadFailed, LoadGenerator, compile_load, compiler, supports_tls
from bench.loads import (
    CLUSTER,
    LOADS,
    QUICK,
    QUICK_CLUSTER,
    QUICK_USEPOD,
    REST,
    USEPOD,
    Load,
)
from bench.relays import (
    AGENT,
    COORDINATOR,
    DOES_NOT_REST,
    NGINX,
    OBVIOUS,
    RECEIPTS,
    RESTS,
    Place,
    Relay,
    new_certificate,
)
from bench.relays import USEPOD as USEPOD_AGENT
from bench.results import COLUMNS, REST_COLUMNS, Measured, Result, failures, rest_row, rows

_BUSY: Final = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
"""A process that keeps one processor busy. It ends with the benchmark, however that ends."""


def measure(load: Load, relay: Relay, program: Path) -> Measured:
    """Run one relay under one load.

    Raises:
        LoadFailed: the relay does not work, or violated the protocol. Its log is printed.
    """
    port = relays.free_port() if relay.http else 0
    options = [*load.arguments(), *relay.load_options(port)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificate = new_certificate(folder) if load.tls else None
        if certificate is not None:
            options.append(f"--certificate={certificate.file}")
        with LoadGenerator(program, options) as generator:
            servers, coordinator = generator.servers, generator.coordinator
            place = Place(folder, servers, coordinator, port, load.streams, certificate)
            return _measure(load, relay, place, generator)


def _measure(load: Load, relay: Relay, place: Place, generator: LoadGenerator) -> Measured:
    running = (cluster_relay if relay.cluster else relays).start(relay, place)
    pids = running.measured.values()
    try:
        generator.wait_until_ready(running.runs)
        process_usage.wait_until_idle(running.pids)
        with _busy_processors() if load.busy else nullcontext():
            idle_bytes = sum(map(process_usage.resident_bytes, pids))
            for pid in pids:
                process_usage.reset_peak(pid)
            before_ns = {name: process_usage.cpu_ns(pid) for name, pid in running.measured.items()}
            figures = generator.run()
            used_ns = {
                name: process_usage.cpu_ns(pid) - before_ns[name]
                for name, pid in running.measured.items()
            }
            peak_bytes = sum(map(process_usage.peak_resident_bytes, pids))
    except LoadFailed:
        print(f"{load.name}, {relay.name}: failed\n{running.log()}", file=sys.stderr)
        raise
    finally:
        generator.stop()
        running.stop()
    units = load.streams * load.jobs * (1 if load.per_job else load.events)
    cpu_us = round(sum(used_ns.values()) / units / 1000, 3)
    parts_us = {name: round(used / units / 1000, 3) for name, used in used_ns.items()}
    if len(parts_us) == 1:
        parts_us = {}
    return Measured(cpu_us, idle_bytes, peak_bytes, figures, parts_us)


@contextmanager
def _busy_processors() -> Iterator[None]:
    """Let every processor work on something else too."""
    command = [sys.executable, "-c", _BUSY]
    processes = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


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
    if relay.command and (load.backends > 1 or load.tls):
        return False
    if relay.python and not load.versions:
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
    chosen += _compiled(options, AGENT)
    chosen += [_agent_of(python) for python in options.pythons]
    if options.litellm_command:
        chosen.append(Relay("litellm", http=True, loose=True, command=options.litellm_command))
    return [*chosen, *_rust_agent(options)]


def choose_dialects(options: argparse.Namespace) -> list[Relay]:
    """The relays for the loads of the dialects."""
    return [
        *(relay for relay in dialects.COMPARED if relay is not NGINX or shutil.which("nginx")),
        *_compiled(options, AGENT, USEPOD_AGENT),
        *_rust_agent(options),
    ]


def _compiled(options: argparse.Namespace, *agents: Relay) -> list[Relay]:
    """The same agents with compiled hot modules."""
    if not options.compiled:
        return []
    code = "import sys, provider_agent.agent.version as v; sys.exit(not v.is_compiled())"
    if subprocess.run([options.compiled, "-c", code], check=False).returncode != 0:
        raise SystemExit(f"{options.compiled} has no compiled provider_agent")
    return [
        replace(agent, name=f"{agent.name}, compiled", python=options.compiled) for agent in agents
    ]


def _rust_agent(options: argparse.Namespace) -> list[Relay]:
    if not options.rust_command:
        return []
    return [Relay("rust agent", max_streams=256, command=options.rust_command)]


def _agent_of(python: str) -> Relay:
    """The agent in another interpreter."""
    code = "import platform, provider_agent; print(platform.python_version())"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{python} cannot import provider_agent:\n{done.stderr}")
    return Relay(f"agent, Python {done.stdout.strip()}", python=python)


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
    machine, began_s = this_machine(), time.monotonic()
    results: list[Result] = []
    rests: list[Result] = []
    of_dialects: list[Result] = []
    clusters: list[Result] = []
    is_whole = not (options.rest or options.cluster or options.usepod)
    with tempfile.TemporaryDirectory() as folder:
        program = compile_load(Path(folder))
        if is_whole:
            loads = QUICK if options.quick else LOADS
            results = _run_all(loads, choose_relays(options), options, program)
        if options.rest or (options.write_docs and is_whole):
            rests = _run_all(REST, [DOES_NOT_REST, RESTS], options, program)
        if options.usepod or is_whole:
            loads = QUICK_USEPOD if options.quick else USEPOD
            of_dialects = _run_all(loads, choose_dialects(options), options, program)
        if (options.cluster or is_whole) and cluster_relay.has_nats_server():
            loads = QUICK_CLUSTER if options.quick else CLUSTER
            clusters = _run_all(loads, cluster_relay.COMPARED, options, program)
    if results:
        _print(COLUMNS, (row for result in results for row in rows(result)))
    if rests:
        _print(REST_COLUMNS, map(rest_row, rests))
    if of_dialects:
        _print(dialects.COLUMNS, (row for one in of_dialects for row in dialects.rows(one)))
    if clusters:
        body = (row for result in clusters for row in cluster_relay.rows(result))
        _print(cluster_relay.COLUMNS, body)
    print(f"{(time.monotonic() - began_s) / 60:.0f} minutes", file=sys.stderr)
    everything = [*results, *rests, *of_dialects, *clusters]
    if options.json:
        write_json(options.json, machine, everything)
    if options.write_docs:
        for write, found in (
            (write_relays, results),
            (write_rest, rests),
            (write_dialects, of_dialects),
            (write_cluster, clusters),
        ):
            if found:
                write(machine, found)
    if any(map(failures, everything)):
        sys.exit(1)


def _run_all(
    loads: Sequence[Load], compared: list[Relay], options: argparse.Namespace, program: Path
) -> list[Result]:
    results = []
    for load in loads:
        if options.only not in load.name:
            continue
        print(load.name, file=sys.stderr, flush=True)
        if load.tls and not supports_tls():
            print("skipped: the C compiler finds no OpenSSL (libssl-dev)", file=sys.stderr)
            continue
        results.append(run(load, compared, options.rounds, program))
    return results


def _print(columns: Sequence[str], body: Iterable[Sequence[str]]) -> None:
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in body:
        table.add_row(*row)
    Console(width=160).print(table)


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.relay", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="run only loads whose name contains this")
    parser.add_argument("--quick", action="store_true", help="a smoke run of seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help="replace the tables, pictures and JSON of docs/performance.md and docs/scaling.md",
    )
    only_one = parser.add_mutually_exclusive_group()
    only_one.add_argument(
        "--rest",
        action="store_true",
        help="compare only the agent with and without its rest under load (coalesce_ms)",
    )
    only_one.add_argument(
        "--usepod",
        action="store_true",
        help="compare only the agent's dialects, and the Rust agent if --rust-command gives it",
    )
    only_one.add_argument(
        "--cluster",
        action="store_true",
        help="compare only one coordinator with two in a cluster, for which NATS must be installed",
    )
    parser.add_argument(
        "--compiled",
        default="",
        metavar="PYTHON",
        help="also run the agent with compiled hot modules, which this interpreter has",
    )
    parser.add_argument(
        "--pythons",
        nargs="+",
        default=[],
        metavar="PYTHON",
        help="also run the agent in these interpreters, which can import it",
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
    options = parser.parse_args(arguments)
    if options.write_docs and (options.only or options.quick):
        parser.error("--write-docs needs all loads, without --only or --quick")
    return options


if __name__ == "__main__":
    main(parse_options(sys.argv[1:]))
