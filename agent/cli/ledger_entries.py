"""The entries of the configured ledger, and the options that select some of them."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from provider_agent.agent.cli.terminal import counted
from provider_agent.agent.config import LoadedConfig
from provider_agent.agent.telemetry.ledger import LedgerEntry, read_ledger

P = ParamSpec("P")
R = TypeVar("R")


class UtcTime(click.ParamType[float]):
    """A date, or a date and time, of ISO 8601; in UTC unless it names another time zone."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return Unix time in seconds."""
        if isinstance(value, float):
            return value
        try:
            time = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a date; write 2026-11-30 or 2026-11-30T18:00", param, ctx)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def period_options(command: Callable[P, R]) -> Callable[P, R]:
    """Add `--since` and `--until`, as Unix times or None."""
    since = click.option(
        "--since",
        type=UtcTime(),
        metavar="DATE",
        help="Only jobs that ended on this date or later (UTC).",
    )
    until = click.option(
        "--until",
        type=UtcTime(),
        metavar="DATE",
        help="Only jobs that ended before this date (UTC).",
    )
    return since(until(command))


class SelectedEntries:
    """The entries of the configured ledger that ended in a period, the oldest first.

    Args:
        loaded: the configuration.
        since: the Unix time of the first; None: no limit.
        until: the Unix time before which they ended; None: no limit.

    Attributes:
        unreadable: the number of lines so far that are no entries, for example after a power loss.

    Raises:
        ClickException: no ledger is configured.
        UsageError: the period is empty.
    """

    def __init__(self, loaded: LoadedConfig, since: float | None, until: float | None) -> None:
        path = loaded.config.observability.ledger_path
        if path is None:
            raise click.ClickException(
                "there is no ledger; set [observability] ledger_path, for example to "
                '"/var/lib/provider-agent/ledger.jsonl", and restart the agent'
            )
        if since is not None and until is not None and until <= since:
            raise click.UsageError(
                "--until must be later than --since: jobs of the date of --until are excluded, so "
                "one day is --since 2026-11-30 --until 2026-12-01"
            )
        self.unreadable = 0
        self._path: Path = path
        self._since = float("-inf") if since is None else since
        self._until = float("inf") if until is None else until

    def __iter__(self) -> Iterator[LedgerEntry]:
        try:
            for entry in read_ledger(self._path):
                if entry is None:
                    self.unreadable += 1
                elif self._since <= entry.ended_at < self._until:
                    yield entry
        except OSError as error:
            raise click.ClickException(
                f"the ledger {self._path} cannot be read: {error.strerror}; "
                "has the agent run with it?"
            ) from error

    def report_unreadable(self) -> None:
        """Print the number of unreadable lines to standard error, if there are any."""
        if self.unreadable:
            click.echo(
                f"{self._path}: skipped {counted(self.unreadable, 'unreadable line')}", err=True
            )
