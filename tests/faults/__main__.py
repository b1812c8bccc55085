"""`make test-faults`: runs every scenario at full scale, and prints a table of the results."""

import argparse
import faulthandler
import logging
import signal
import sys
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType

from rich.console import Console
from rich.table import Table

from provider_agent.protocol.limits import SUBPROTOCOL
from tests.faults.scenarios.scenario import FULL, SHORT, Outcome, Scale, Scenario, run_scenario
from tests.faults.scenarios.table import scenarios_of

LIMIT_S = 180
"""The most real time that one scenario may take."""

LOG_LINES = 40
"""How many of the last log records the report of a failure contains."""

TABLE_COLUMNS = 150
"""The width of the table if the output is not a terminal."""


class LogTail(logging.Handler):
    """Keeps the last records."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=LOG_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        fields = getattr(record, "fields", "")
        self.lines.append(f"{record.name}: {record.getMessage()} {fields}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the selected scenarios; return the exit code."""
    options = _parse(arguments)
    scale = replace(SHORT if options.short else FULL, seed=options.seed, dialect=options.dialect)
    scenarios = [one for one in scenarios_of(options.dialect) if options.k in one.name]
    if not scenarios:
        sys.exit(f"No scenario's name contains {options.k!r}.")
    tail = LogTail()
    logging.basicConfig(level=logging.INFO, handlers=[tail])
    signal.signal(signal.SIGALRM, _on_alarm)
    console = Console()
    if not console.is_terminal:
        console = Console(width=TABLE_COLUMNS)
    failures: list[str] = []
    table = _empty_table(scale)
    with console.status("") as status:
        for number, scenario in enumerate(scenarios * options.repeat, start=1):
            status.update(f"{number} of {len(scenarios) * options.repeat}: {scenario.name}")
            tail.lines.clear()
            signal.alarm(LIMIT_S)
            outcome = run_scenario(scenario, scale)
            signal.alarm(0)
            _add_row(table, scenario, outcome)
            if outcome.error is not None:
                failures.append(_failure_report(scenario, outcome.error, tail))
    console.print(table)
    for failure in failures:
        console.print(failure, markup=False, highlight=False)
    passed = len(scenarios) * options.repeat - len(failures)
    console.print(f"{passed} passed, {len(failures)} failed; seed {scale.seed}.", highlight=False)
    return 1 if failures else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make test-faults", description=__doc__)
    parser.add_argument("-k", default="", metavar="TEXT", help="select scenarios by name")
    parser.add_argument("--seed", type=int, default=1, help="seed of every random choice")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="run everything N times")
    parser.add_argument("--short", action="store_true", help="use the small scale of `make test`")
    parser.add_argument(
        "--dialect",
        choices=[SUBPROTOCOL, "usepod"],
        default=SUBPROTOCOL,
        help="the protocol of agents and coordinator",
    )
    return parser.parse_args(arguments)


def _empty_table(scale: Scale) -> Table:
    title = (
        f"Faults: {scale.streams} streams, {scale.cuts} cuts, seed {scale.seed}, {scale.dialect}"
    )
    table = Table(title=title, show_lines=True, title_justify="left")
    table.add_column("scenario", ratio=3)
    table.add_column("fault", ratio=5)
    table.add_column("what must hold", ratio=5)
    table.add_column("result", ratio=5)
    table.add_column("seconds", justify="right")
    return table


def _add_row(table: Table, scenario: Scenario, outcome: Outcome) -> None:
    passed = f"[green]passed[/]: {outcome.summary}"
    result = passed if outcome.error is None else "[bold red]FAILED[/], see below"
    seconds = f"{outcome.seconds:.1f}"
    table.add_row(scenario.name, scenario.fault, scenario.expectation, result, seconds)


def _failure_report(scenario: Scenario, error: Exception, tail: LogTail) -> str:
    trace = "".join(traceback.format_exception(error))
    log = "\n".join(tail.lines)
    return f"\n=== {scenario.name}\n\nLast log records:\n{log}\n\n{trace}"


def _on_alarm(_signal: int, _frame: FrameType | None) -> None:
    faulthandler.dump_traceback()
    raise TimeoutError(f"over {LIMIT_S} s of real time")


if __name__ == "__main__":
    sys.exit(main())
