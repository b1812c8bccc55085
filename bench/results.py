"""Medians, spreads and ratios of several rounds, as a table."""

import statistics
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from bench.load_generator import Figures
from bench.loads import Load

KIB = 1024
MIB = 1024 * KIB


class Measured(Struct, omit_defaults=True):
    """One relay under one load, once.

    Attributes:
        cpu_us: CPU time of the relay per event or per job, in microseconds.
        idle_bytes: its resident memory before the load.
        peak_bytes: its largest resident memory under the load.
        figures: what the load generator measured.
        parts_us: the CPU time of each process, if the relay consists of several.
    """

    cpu_us: float
    idle_bytes: int
    peak_bytes: int
    figures: Figures
    parts_us: dict[str, float] = {}


class Result(Struct):
    """All rounds of one load.

    Attributes:
        load: the load.
        rounds: by the name of the relay: what was measured, in the order of the rounds; fewer
            than `expected` if the relay failed.
        expected: the number of rounds.
    """

    load: Load
    rounds: dict[str, list[Measured]]
    expected: int


COLUMNS = (
    "load",
    "relay",
    "CPU ÷ obvious",
    "CPU ÷ nginx",
    "events/s",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "first byte ms",
    "idle MB",
    "KB/stream",
    "errors",
)


def labelled_rows(
    result: Result,
    columns: Sequence[str],
    cells: Callable[[Result, str, list[Measured]], list[str]],
) -> Iterable[list[str]]:
    """The rows of a table for one load, one per relay.

    Args:
        result: the rounds of the load.
        columns: the names of the columns; the first two are the load and the relay.
        cells: returns the other cells of a relay, unless it has failed.
    """
    for index, (name, rounds) in enumerate(result.rounds.items()):
        label = [result.load.name if index == 0 else "", name]
        if len(rounds) < result.expected:
            yield [*label, *["failed"] * (len(columns) - len(label))]
        else:
            yield [*label, *cells(result, name, rounds)]


def rows(result: Result) -> Iterable[list[str]]:
    """The rows of the table for one load, one per relay."""
    return labelled_rows(result, COLUMNS, _cells)


def _cells(result: Result, name: str, rounds: list[Measured]) -> list[str]:
    return [
        spread(cpu_ratios(result, name, "obvious")),
        spread(cpu_ratios(result, name, "nginx")),
        event_rate(result, name),
        *_latencies(result.load, rounds),
        f"{median(rounds, lambda one: one.figures.first_byte_ms.p50):.2f}",
        f"{median(rounds, lambda one: one.idle_bytes) / MIB:.0f}",
        f"{_kib_per_stream(result.load, rounds):.0f}",
        f"{sum(one.figures.errors for one in rounds)}",
    ]


def failures(result: Result) -> bool:
    """Whether a relay failed, or one of its jobs did."""
    return any(
        len(rounds) < result.expected or any(one.figures.errors for one in rounds)
        for rounds in result.rounds.values()
    )


def markdown(results: Iterable[Result]) -> str:
    """The table for the documentation."""
    return markdown_table(COLUMNS, (row for result in results for row in rows(result)))


REST_COLUMNS = (
    "streams",
    "processors",
    "CPU, with ÷ without rest",
    "p50 ms, without",
    "p50 ms, with",
    "p99 ms, without",
    "p99 ms, with",
)


def rest_row(result: Result) -> list[str]:
    """The row of one load in the table of the rest under load."""
    label = [f"{result.load.streams:,}", "busy" if result.load.busy else "idle"]
    without, with_rest = (result.rounds[name] for name in ("does not rest", "rests"))
    if failures(result):
        return [*label, *["failed"] * (len(REST_COLUMNS) - len(label))]
    return [
        *label,
        spread(cpu_ratios(result, "rests", "does not rest")),
        f"{median(without, p50):.2f}",
        f"{median(with_rest, p50):.2f}",
        f"{median(without, p99):.2f}",
        f"{median(with_rest, p99):.2f}",
    ]


def rest_markdown(results: Iterable[Result]) -> str:
    """The table of the rest under load for the documentation."""
    return markdown_table(REST_COLUMNS, map(rest_row, results))


def markdown_table(columns: Sequence[str], body: Iterable[list[str]]) -> str:
    """A table for the documentation; all columns but the first two are numbers."""
    rule = ["---", "---", *["---:"] * (len(columns) - 2)]
    lines = (" | ".join(row) for row in (columns, rule, *body))
    return "".join(f"| {line} |\n" for line in lines)


def p50(measured: Measured) -> float:
    """The median latency, in milliseconds."""
    return measured.figures.latency_ms.p50


def p99(measured: Measured) -> float:
    """The latency, in milliseconds, that 99 % of the events do not exceed."""
    return measured.figures.latency_ms.p99


def median(rounds: Sequence[Measured], value: Callable[[Measured], float]) -> float:
    """The median of a value over the rounds."""
    return statistics.median(value(one) for one in rounds)


def cpu_ratios(result: Result, name: str, other: str) -> list[float]:
    """The CPU time of one relay relative to another, by round; empty if one has failed."""
    return ratios(result, name, other, lambda one: one.cpu_us)


def _rate(measured: Measured) -> float:
    return measured.figures.events / measured.figures.seconds


def ratios(
    result: Result, name: str, other: str, value: Callable[[Measured], float]
) -> list[float]:
    """A value of one relay relative to that of another, by round; empty if one has failed."""
    ours, theirs = result.rounds.get(name, []), result.rounds.get(other, [])
    if name == other or not len(ours) == len(theirs) == result.expected:
        return []
    return [value(one) / value(base) for one, base in zip(ours, theirs, strict=True)]


def spread(ratios: Sequence[float]) -> str:
    """The median, with the smallest and the largest."""
    if not ratios:
        return ""
    middle = f"{statistics.median(ratios):.2f}"
    return middle if len(ratios) == 1 else f"{middle} ({min(ratios):.2f}–{max(ratios):.2f})"


def event_rate(result: Result, name: str) -> str:
    """The share of the fixed rate, or, at an unlimited rate, the ratio to the obvious relay."""
    if not result.load.rate:
        return spread(ratios(result, name, "obvious", _rate))
    return f"{median(result.rounds[name], _rate) / (result.load.rate * result.load.streams):.0%}"


def _latencies(load: Load, rounds: Sequence[Measured]) -> list[str]:
    if not load.paced:
        return ["–"] * 3
    return [
        f"{median(rounds, p50):.2f}",
        f"{median(rounds, p99):.2f}",
        f"{median(rounds, lambda one: one.figures.latency_ms.p999):.2f}",
    ]


def _kib_per_stream(load: Load, rounds: Sequence[Measured]) -> float:
    grown = median(rounds, lambda one: one.peak_bytes - one.idle_bytes)
    return grown / load.streams / KIB
