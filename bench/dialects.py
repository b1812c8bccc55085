"""The dialects in `bench.relay`: what the agent costs with the dialect `usepod`.

The Rust agent, which speaks only that dialect, runs beside it if it is given.
"""

from collections.abc import Iterable
from typing import Final

from bench.relays import AGENT, NGINX, USEPOD
from bench.results import (
    MIB,
    Measured,
    Result,
    cpu_ratios,
    event_rate,
    labelled_rows,
    markdown_table,
    median,
    p50,
    p99,
    spread,
)

COMPARED: Final = [AGENT, USEPOD, NGINX]

COLUMNS: Final = (
    "load",
    "relay",
    "CPU ÷ nginx",
    "CPU ÷ agent",
    "CPU µs",
    "events/s",
    "p50 ms",
    "p99 ms",
    "peak MB",
    "errors",
)


def rows(result: Result) -> Iterable[list[str]]:
    """The rows of the table for one load, one per relay."""
    return labelled_rows(result, COLUMNS, _cells)


def _cells(result: Result, name: str, rounds: list[Measured]) -> list[str]:
    paced = result.load.paced
    return [
        spread(cpu_ratios(result, name, NGINX.name)),
        spread(cpu_ratios(result, name, AGENT.name)),
        f"{median(rounds, lambda one: one.cpu_us):.0f}",
        event_rate(result, name) if paced else "–",
        f"{median(rounds, p50):.2f}" if paced else "–",
        f"{median(rounds, p99):.2f}" if paced else "–",
        f"{median(rounds, lambda one: one.peak_bytes) / MIB:.0f}",
        f"{sum(one.figures.errors for one in rounds)}",
    ]


def markdown(results: Iterable[Result]) -> str:
    """The table for the documentation."""
    return markdown_table(COLUMNS, (row for result in results for row in rows(result)))
