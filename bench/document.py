"""Writes the results into `docs/`: tables in its pages, pictures and JSON in `performance/`."""

import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from bench import cluster_relay, dialects, fleet_results
from bench.fleet_results import FleetResult
from bench.pictures import Line, Panel, Point, chart
from bench.results import Measured, Result, cpu_ratios, markdown, p50, p99, rest_markdown

DOCS: Final = Path(__file__).parents[1] / "docs"

FLEET_COMMAND: Final = "python -m bench.cluster_fleet --write-docs"

_RELAYS: Final = ("agent", "obvious", "nginx")
"""The lines of the pictures."""

_RELAY_PICTURES: Final = """\
![CPU time per event of agent and obvious relay relative to nginx, over the number of streams; \
the values are in the table](performance/cpu.svg)

![Median and 99th percentile of the added latency of agent, obvious relay and nginx, over the \
number of streams; the values are in the table](performance/latency.svg)
"""
_REST_PICTURE: Final = """\
![CPU time per event with the rest relative to none, over the number of streams, with idle and \
with busy processors; the values are in the table](performance/rest.svg)
"""


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


def write_relays(machine: Machine, results: list[Result], docs: Path = DOCS) -> None:
    """Replace the table of all relays, its pictures and its JSON."""
    _replace_table(docs, "relay", f"{_RELAY_PICTURES}\n{machine}\n\n{markdown(results)}")
    curve = [
        one for one in results if one.load.rate and one.load.backends == 1 and not one.load.tls
    ]
    folder = docs / "performance"
    cpu = Panel(
        "CPU time per event ÷ nginx",
        [_line(name, curve, _cpu_ratios(name, "nginx")) for name in _RELAYS[:2]],
        baseline=1,
    )
    title = "CPU time per event relative to nginx, by number of streams at 50 events/s"
    _draw(folder / "cpu.svg", title, [cpu])
    latency = [
        Panel(title, [_line(name, curve, _each(name, value)) for name in _RELAYS])
        for title, value in (("median added latency, ms", p50), ("99th percentile, ms", p99))
    ]
    title = "Added latency in milliseconds, by number of streams at 50 events/s"
    _draw(folder / "latency.svg", title, latency)
    write_json(folder / "relays.json", machine, results)


def write_rest(machine: Machine, results: list[Result], docs: Path = DOCS) -> None:
    """Replace the table of the rest under load, its picture and its JSON."""
    _replace_table(docs, "rest", f"{_REST_PICTURE}\n{machine}\n\n{rest_markdown(results)}")
    lines = [
        _line(
            "processors busy" if busy else "processors idle",
            [one for one in results if one.load.busy == busy],
            _cpu_ratios("rests", "does not rest"),
        )
        for busy in (False, True)
    ]
    title = "CPU time per event with the rest under load, relative to none, by number of streams"
    panel = Panel("CPU time per event, with ÷ without rest", lines, baseline=1)
    _draw(docs / "performance" / "rest.svg", title, [panel])
    write_json(docs / "performance" / "rest.json", machine, results)


def write_dialects(machine: Machine, results: list[Result], docs: Path = DOCS) -> None:
    """Replace the table of the dialects, and its JSON."""
    _replace_table(docs, "dialect", f"{machine}\n\n{dialects.markdown(results)}")
    write_json(docs / "performance" / "dialects.json", machine, results)


def write_cluster(machine: Machine, results: list[Result], docs: Path = DOCS) -> None:
    """Replace the table of the cluster in `scaling.md`, and its JSON."""
    table = cluster_relay.markdown(results)
    _replace_table(docs, "cluster", f"{machine}\n\n{table}", page="scaling.md")
    write_json(docs / "performance" / "cluster.json", machine, results)


def write_fleet(machine: Machine, result: FleetResult, docs: Path = DOCS) -> None:
    """Replace the table of the large fleet in `scaling.md`."""
    content = f"{machine}\n\n{fleet_results.markdown(result)}"
    _replace_table(docs, "fleet", content, page="scaling.md", command=FLEET_COMMAND)


def write_json(path: Path, machine: Machine, results: Iterable[Result]) -> None:
    """Write everything that was measured, with absolute figures; one line per load."""
    lines = ",\n".join(msgspec.json.encode(one).decode() for one in results)
    head = msgspec.json.encode(machine).decode()
    path.write_text(f'{{"machine":{head},\n"results":[\n{lines}\n]}}\n')


def _replace_table(
    docs: Path,
    name: str,
    content: str,
    page: str = "performance.md",
    command: str = "make bench ARGS=--write-docs",
) -> None:
    document = docs / page
    begin = f"<!-- {name} table: written by {command} -->\n"
    end = f"<!-- end of the {name} table -->\n"
    before, _, rest = document.read_text().partition(begin)
    _, _, after = rest.partition(end)
    document.write_text(f"{before}{begin}\n{content}\n{end}{after}")


def _draw(path: Path, title: str, panels: list[Panel]) -> None:
    """Write a picture, unless a panel has no values, as the ratios to nginx where it is missing."""
    if all(any(line.points for line in panel.lines) for panel in panels):
        path.write_text(chart(title, panels))


def _cpu_ratios(name: str, other: str) -> Callable[[Result], list[float]]:
    return lambda result: cpu_ratios(result, name, other)


def _each(name: str, value: Callable[[Measured], float]) -> Callable[[Result], list[float]]:
    return lambda result: [value(one) for one in result.rounds.get(name, [])]


def _line(
    name: str, results: Iterable[Result], values: Callable[[Result], Sequence[float]]
) -> Line:
    return Line(
        name,
        [
            Point(one.load.streams, statistics.median(found), min(found), max(found))
            for one in results
            if (found := values(one))
        ],
    )
