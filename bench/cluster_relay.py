"""The cluster in `bench.relay`: what a job costs whose agent is connected to another coordinator.

Two coordinators and a NATS server run in both cases. Local: agent and client have the same
coordinator, and the other one is idle. Remote: each has its own.
"""

import sys
import time
from collections.abc import Callable, Iterable
from typing import Final

from bench.load_generator import LoadFailed
from bench.relays import (
    COORDINATOR,
    Place,
    Relay,
    RunningRelay,
    agent_command,
    connect_url,
    coordinator_command,
    free_port,
)
from bench.results import (
    Measured,
    Result,
    event_rate,
    labelled_rows,
    markdown_table,
    median,
    p50,
    p99,
    ratios,
    spread,
)
from tests.kit.nats_server import BINARY

LOCAL: Final = Relay("local", http=True, cluster=True)
REMOTE: Final = Relay("remote", http=True, cluster=True)
COMPARED: Final = [COORDINATOR, LOCAL, REMOTE]
"""A coordinator without a cluster shows what it costs to be a member of one."""

HOLDER: Final = "agent's coordinator"
EDGE: Final = "client's coordinator"
NATS: Final = "NATS"
PARTS: Final = (HOLDER, EDGE, NATS)
"""The processes that are measured; where agent and client have one coordinator, it is `HOLDER`, and
`EDGE` the idle one."""

JOIN_TIMEOUT_S: Final = 30.0
_JOINED: Final = "coordinator joined the cluster"
_POLL_S: Final = 0.05


def has_nats_server() -> bool:
    """Whether the package with the NATS server is installed."""
    return BINARY.exists()


def nats_command(port: int) -> list[str]:
    """How to start a NATS server that listens on `port` of loopback."""
    return [str(BINARY), "--addr", "127.0.0.1", "--port", str(port)]


def member_command(port: int, nats_port: int) -> list[str]:
    """How to start a coordinator that listens on `port` as a member of a cluster."""
    return [*coordinator_command(port), f"--cluster=nats://127.0.0.1:{nats_port}"]


def commands(relay: Relay, place: Place, other_port: int, nats_port: int) -> list[list[str]]:
    """How to start the processes: those of `PARTS`, and the agent.

    Args:
        relay: `LOCAL` or `REMOTE`.
        place: where it runs; clients dial the coordinator at its port.
        other_port: the port of the other coordinator.
        nats_port: the port of the NATS server.
    """
    holder_port, edge_port = place.port, other_port
    if relay is REMOTE:
        holder_port, edge_port = other_port, place.port
    return [
        member_command(holder_port, nats_port),
        member_command(edge_port, nats_port),
        nats_command(nats_port),
        agent_command(relay, place, connect_url(holder_port)),
    ]


def start(relay: Relay, place: Place) -> RunningRelay:
    """Start `LOCAL` or `REMOTE`; return when the coordinators know each other.

    Raises:
        LoadFailed: see `wait_until_joined`.
    """
    running = RunningRelay(place, *commands(relay, place, free_port(), free_port()), measured=PARTS)
    try:
        wait_until_joined(running)
    except LoadFailed:
        running.stop()
        raise
    return running


def wait_until_joined(running: RunningRelay) -> None:
    """Wait until the coordinators know each other.

    Raises:
        LoadFailed: they do not within 30 s, or a process has exited. The log is printed.
    """
    deadline = time.monotonic() + JOIN_TIMEOUT_S
    while running.times_logged(_JOINED) < 2:
        if not running.runs() or time.monotonic() > deadline:
            print(f"no cluster\n{running.log()}", file=sys.stderr)
            raise LoadFailed
        time.sleep(_POLL_S)


COLUMNS: Final = (
    "load",
    "path",
    "CPU ÷ local",
    *(f"{part} ÷ local" for part in PARTS),
    "CPU µs",
    "events/s",
    "p50 ms",
    "p99 ms",
    "p50 ÷ local",
    "errors",
)


def rows(result: Result) -> Iterable[list[str]]:
    """The rows of the table for one load, one per path."""
    return labelled_rows(result, COLUMNS, _cells)


def _cells(result: Result, name: str, rounds: list[Measured]) -> list[str]:
    return [
        spread(_to_local(result, name, lambda one: one.cpu_us)),
        *(_part(result, name, part) for part in PARTS),
        f"{median(rounds, lambda one: one.cpu_us):.0f}",
        event_rate(result, name),
        f"{median(rounds, p50):.2f}",
        f"{median(rounds, p99):.2f}",
        spread(_to_local(result, name, p50)),
        f"{sum(one.figures.errors for one in rounds)}",
    ]


def _to_local(result: Result, name: str, value: Callable[[Measured], float]) -> list[float]:
    return ratios(result, name, LOCAL.name, value)


def _part(result: Result, name: str, part: str) -> str:
    """The CPU time of one process, relative to that of all processes of the local path."""
    rounds, local = result.rounds[name], result.rounds.get(LOCAL.name, [])
    if not len(rounds) == len(local) == result.expected or part not in rounds[0].parts_us:
        return ""
    shares = zip(rounds, local, strict=True)
    return spread([one.parts_us[part] / base.cpu_us for one, base in shares])


def markdown(results: Iterable[Result]) -> str:
    """The table for the documentation."""
    return markdown_table(COLUMNS, (row for result in results for row in rows(result)))
