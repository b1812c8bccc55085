"""Medians, spreads and ratios of several rounds, as a table."""

import statistics
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from bench.load_generator import Figures
from bench.loads import Load

KIB = 1024
MIB = 1024 * KIB


class Measured(Struct):
    """One relay under one load, once.

    Attributes:
        cpu_us: CPU time of the relay per event or per job, in microseconds.
        idle_bytes: its resident memory before the load.
        peak_bytes: its largest resident memory under the load.
        figures: what the load generator measured.
    """

    cpu_us: float
    idle_bytes: int
    peak_bytes: int
    figures: Figures


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


def rows(result: Result) -> Iterable[list[str]]:
    """The rows of the table for one load, one per relay."""
    for index, (name, rounds) in enumerate(result.rounds.items()):
        label = [result.load.name if index == 0 else "", name]
        if len(rounds) < result.expected:
            yield [*label, *["failed"] * (len(COLUMNS) - len(label))]
            continue
        yield [
            *label,
            _ratio(rounds, result.rounds.get("obvious"), _cpu),
            _ratio(rounds, result.rounds.get("nginx"), _cpu),
            _event_rate(result, rounds),
            *_latencies(result.load, rounds),
            f"{_median(rounds, lambda one: one.figures.first_byte_ms.p50):.2f}",
            f"{_median(rounds, lambda one: one.idle_bytes) / MIB:.0f}",
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
    lines = [
        " | ".join(COLUMNS),
        " | ".join(["---", "---", *["---:"] * (len(COLUMNS) - 2)]),
        *(" | ".join(row) for result in results for row in rows(result)),
    ]
    return "".join(f"| {line} |\n" for line in lines)


def _cpu(measured: Measured) -> float:
    return measured.cpu_us


def _rate(measured: Measured) -> float:
    return measured.figures.events / measured.figures.seconds


def _median(rounds: Sequence[Measured], value: Callable[[Measured], float]) -> float:
    return statistics.median(value(one) for one in rounds)


def _ratio(
    ours: Sequence[Measured], theirs: Sequence[Measured] | None, value: Callable[[Measured], float]
) -> str:
    """The median of the ratios of single rounds, with the smallest and the largest."""
    if theirs is None or ours is theirs or len(theirs) < len(ours):
        return ""
    ratios = [value(one) / value(other) for one, other in zip(ours, theirs, strict=True)]
    middle = f"{statistics.median(ratios):.2f}"
    return middle if len(ratios) == 1 else f"{middle} ({min(ratios):.2f}–{max(ratios):.2f})"


def _event_rate(result: Result, rounds: Sequence[Measured]) -> str:
    """The share of the fixed rate, or, at an unlimited rate, the ratio to the obvious relay."""
    if not result.load.rate:
        return _ratio(rounds, result.rounds.get("obvious"), _rate)
    return f"{_median(rounds, _rate) / (result.load.rate * result.load.streams):.0%}"


def _latencies(load: Load, rounds: Sequence[Measured]) -> list[str]:
    if not load.paced:
        return ["–"] * 3
    return [
        f"{_median(rounds, lambda one: one.figures.latency_ms.p50):.2f}",
        f"{_median(rounds, lambda one: one.figures.latency_ms.p99):.2f}",
        f"{_median(rounds, lambda one: one.figures.latency_ms.p999):.2f}",
    ]


def _kib_per_stream(load: Load, rounds: Sequence[Measured]) -> float:
    grown = _median(rounds, lambda one: one.peak_bytes - one.idle_bytes)
    return grown / load.streams / KIB
