"""What `bench.cluster_fleet` measured, as a table and as sentences."""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from bench.results import MIB, markdown_table


class Usage(Struct, frozen=True):
    """What one process used in one phase.

    Attributes:
        cpu: the share of a core.
        resident_bytes: resident memory at the end.
    """

    cpu: float
    resident_bytes: int


class ProcessUsage(Struct, frozen=True, kw_only=True):
    """One process.

    Attributes:
        name: the coordinator's number, or "NATS".
        agents: the agents that are connected to it; None for NATS.
        start_cpu_s: CPU time until all coordinators knew all agents, in seconds.
        empty_bytes: resident memory before the first agent.
        idle: with all agents, without jobs.
        busy: with jobs.
    """

    name: str
    agents: int | None
    start_cpu_s: float
    empty_bytes: int
    idle: Usage
    busy: Usage


class FleetResult(Struct, frozen=True, kw_only=True):
    """Everything that was measured.

    Attributes:
        agents: all agents.
        coordinators: all coordinators.
        streams: the clients, each with one request at a time.
        rate: events per second of each response.
        processes: the coordinators and NATS.
        connected_s: from the start of the agents until all were connected.
        known_s: the same until every coordinator knew all.
        killed_agents: the agents of the coordinator that was killed.
        moved_s: from the kill until all agents were connected again.
        converged_s: the same until every other coordinator knew every agent once.
        answered: complete responses before the kill.
        failed: requests that failed before the kill.
        failed_by_kill: requests that failed from the kill until `converged_s`.
    """

    agents: int
    coordinators: int
    streams: int
    rate: float
    processes: list[ProcessUsage]
    connected_s: float
    known_s: float
    killed_agents: int
    moved_s: float
    converged_s: float
    answered: int
    failed: int
    failed_by_kill: int


COLUMNS: Final = (
    "process",
    "own agents",
    "MB, without agents",
    "MB, idle",
    "MB, with jobs",
    "CPU s, start",
    "CPU, idle",
    "CPU, with jobs",
)


def rows(result: FleetResult) -> Iterable[list[str]]:
    """The rows of the table, one per process."""
    for process in result.processes:
        is_nats = process.agents is None
        yield [
            process.name if is_nats else f"coordinator {process.name}",
            "–" if is_nats else f"{process.agents:,}",
            _mb(process.empty_bytes),
            _mb(process.idle.resident_bytes),
            _mb(process.busy.resident_bytes),
            f"{process.start_cpu_s:.2f}",
            f"{process.idle.cpu:.1%}",
            f"{process.busy.cpu:.1%}",
        ]


def _mb(size: int) -> str:
    return f"{size / MIB:.0f}"


def facts(result: FleetResult) -> list[str]:
    """The other figures, as sentences."""
    fleet = (
        f"{result.agents:,} agents with three models each, {result.coordinators} coordinators. "
        f"With jobs: {result.streams} clients, {result.rate:g} events/s each; "
        f"{result.answered:,} requests answered, {result.failed:,} failed."
    )
    start = (
        f"All agents dial at once: connected after {result.connected_s:.1f} s, known to every "
        f"coordinator after {result.known_s:.1f} s."
    )
    kill = (
        f"One coordinator killed: its {result.killed_agents:,} agents connected again after "
        f"{result.moved_s:.1f} s, every other coordinator counted every agent exactly once after "
        f"{result.converged_s:.1f} s; {result.failed_by_kill:,} requests failed."
    )
    return [fleet, start, kill]


def markdown(result: FleetResult) -> str:
    """The table for the documentation, with the other figures as a list."""
    listed = "".join(f"- {fact}\n" for fact in facts(result))
    return f"{markdown_table(COLUMNS, rows(result))}\n{listed}"
