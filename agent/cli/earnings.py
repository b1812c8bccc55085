"""`provider-agent earnings`: the ledger of ended jobs, summed by day and model."""

from collections.abc import Iterable
from datetime import UTC, datetime

import click
import msgspec
from rich.table import Column, Table

from provider_agent.agent.cli.ledger_entries import SelectedEntries, period_options
from provider_agent.agent.cli.settings import with_local_config
from provider_agent.agent.cli.terminal import console, dollar_text, print_json, visible
from provider_agent.agent.config import LoadedConfig
from provider_agent.agent.telemetry.job_totals import tokens_times_price
from provider_agent.agent.telemetry.ledger import LedgerEntry
from provider_agent.agent.telemetry.metrics import MILLION, OK


class EarningsRow(msgspec.Struct):
    """The jobs of one model that ended on one day.

    Attributes:
        day: the date in UTC.
        model: the model.
        jobs: the number of jobs that succeeded.
        failed: the number of the others.
        input_tokens: of the jobs that succeeded, as far as the servers reported them.
        output_tokens: the same for output.
        earned_millionths: tokens times price of these jobs, in millionths of a US dollar.
    """

    day: str
    model: str
    jobs: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    earned_millionths: float = 0.0


@click.command(short_help="Sum up the earnings by day and model.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@period_options
@with_local_config
def earnings(loaded: LoadedConfig, as_json: bool, since: float | None, until: float | None) -> None:
    """Sum up the ledger of ended jobs by day (UTC) and model.

    Earnings are tokens times the offered price of the jobs that succeeded. They are the agent's
    claim: the coordinator may count differently. The ledger must be on: set [observability]
    ledger_path. `earnings` and `ledger sum` are the same command.
    """
    entries = SelectedEntries(loaded, since, until)
    rows = sum_up(entries)
    if as_json:
        print_json(rows)
    elif rows:
        console().print(_table(rows))
    else:
        when = "yet" if since is None and until is None else "of this period"
        click.echo(
            f"The ledger {loaded.config.observability.ledger_path} has no jobs {when}. "
            "`provider-agent status` shows whether the agent is connected, and which models "
            "receive jobs."
        )
    entries.report_unreadable()


def sum_up(entries: Iterable[LedgerEntry]) -> list[EarningsRow]:
    """Return a row for each day and model, in this order."""
    rows: dict[tuple[str, str], EarningsRow] = {}
    amounts: dict[tuple[str, str], int] = {}
    for entry in entries:
        key = (f"{datetime.fromtimestamp(entry.ended_at, UTC):%Y-%m-%d}", entry.model)
        row = rows.setdefault(key, EarningsRow(*key))
        if entry.code != OK:
            row.failed += 1
            continue
        row.jobs += 1
        row.input_tokens += entry.input_tokens or 0
        row.output_tokens += entry.output_tokens or 0
        amounts[key] = amounts.get(key, 0) + (earned(entry) or 0)
    for key, amount in amounts.items():
        rows[key].earned_millionths = amount / MILLION
    return [row for _, row in sorted(rows.items())]


def earned(entry: LedgerEntry) -> int | None:
    """Return what a job earned, in millionths of a millionth of a US dollar.

    0 for a job that failed; None if no number of tokens with a price is known.
    """
    if entry.code != OK:
        return 0
    return tokens_times_price(
        (entry.input_tokens, entry.input_price_per_1m),
        (entry.output_tokens, entry.output_price_per_1m),
    )


def _table(rows: list[EarningsRow]) -> Table:
    numbers = [Column(name, justify="right") for name in ("jobs", "failed", "input", "output")]
    total = sum(row.earned_millionths for row in rows)
    table = Table(
        Column("day", footer="total"),
        Column("model", overflow="fold"),
        *numbers,
        Column("earned", justify="right", footer=dollar_text(total)),
        show_footer=True,
    )
    for row in rows:
        counts = (row.jobs, row.failed, row.input_tokens, row.output_tokens)
        table.add_row(
            row.day, visible(row.model), *map(str, counts), dollar_text(row.earned_millionths)
        )
    return table
