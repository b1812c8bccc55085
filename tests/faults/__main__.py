"""`make test-faults`: runs every scenario in full, and prints the table with what came of it."""

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

from tests.faults.scenarios.scenario import FULL, SHORT, Effort, Outcome, Scenario, perform
from tests.faults.scenarios.table import TABLE

LIMIT_S = 180
"""Real time that one scenario may take."""

LOG_LINES = 40
"""How much of the log is shown after a failure."""

TABLE_COLUMNS = 150
"""Where the output is no terminal."""


class LogTail(logging.Handler):
    """Keeps the end of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=LOG_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        fields = getattr(record, "fields", "")
        self.lines.append(f"{record.name}: {record.getMessage()} {fields}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; returns the process's exit code."""
    asked = _parse(arguments)
    effort = replace(SHORT if asked.short else FULL, seed=asked.seed)
    chosen = [scenario for scenario in TABLE if asked.k in scenario.name]
    if not chosen:
        sys.exit(f"No scenario's name holds {asked.k!r}.")
    tail = LogTail()
    logging.basicConfig(level=logging.INFO, handlers=[tail])
    signal.signal(signal.SIGALRM, _too_long)
    console = Console()
    if not console.is_terminal:
        console = Console(width=TABLE_COLUMNS)
    failures: list[str] = []
    table = _table(effort)
    with console.status("") as status:
        for number, scenario in enumerate(chosen * asked.repeat, start=1):
            status.update(f"{number} of {len(chosen) * asked.repeat}: {scenario.name}")
            tail.lines.clear()
            signal.alarm(LIMIT_S)
            outcome = perform(scenario, effort)
            signal.alarm(0)
            _add(table, scenario, outcome)
            if outcome.error is not None:
                failures.append(_report(scenario, outcome.error, tail))
    console.print(table)
    for failure in failures:
        console.print(failure, markup=False, highlight=False)
    held = len(chosen) * asked.repeat - len(failures)
    console.print(f"{held} held, {len(failures)} failed; seed {effort.seed}.", highlight=False)
    return 1 if failures else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make test-faults", description=__doc__)
    parser.add_argument("-k", default="", metavar="TEXT", help="only those with it in their name")
    parser.add_argument("--seed", type=int, default=1, help="of every random choice")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="all of it N times")
    parser.add_argument("--short", action="store_true", help="as short as in `make test`")
    return parser.parse_args(arguments)


def _table(effort: Effort) -> Table:
    title = f"Faults: {effort.streams} streams, {effort.cuts} cuts, seed {effort.seed}"
    table = Table(title=title, show_lines=True, title_justify="left")
    table.add_column("scenario", ratio=3)
    table.add_column("what is done", ratio=5)
    table.add_column("what must hold", ratio=5)
    table.add_column("result", ratio=5)
    table.add_column("seconds", justify="right")
    return table


def _add(table: Table, scenario: Scenario, outcome: Outcome) -> None:
    held = f"[green]held[/]: {outcome.seen}"
    result = held if outcome.error is None else "[bold red]FAILED[/], see below"
    seconds = f"{outcome.seconds:.1f}"
    table.add_row(scenario.name, scenario.done, scenario.promise, result, seconds)


def _report(scenario: Scenario, error: Exception, tail: LogTail) -> str:
    trace = "".join(traceback.format_exception(error))
    log = "\n".join(tail.lines)
    return f"\n=== {scenario.name}\n\nThe end of the log:\n{log}\n\n{trace}"


def _too_long(_signal: int, _frame: FrameType | None) -> None:
    faulthandler.dump_traceback()
    raise TimeoutError(f"over {LIMIT_S} s of real time")


if __name__ == "__main__":
    sys.exit(main())
