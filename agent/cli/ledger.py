"""`provider-agent ledger`: the ledger of ended jobs, summed or exported."""

import csv
import io
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, Literal
from unicodedata import normalize

import click
import msgspec

from provider_agent.agent.cli.earnings import earned, earnings
from provider_agent.agent.cli.ledger_entries import SelectedEntries, period_options
from provider_agent.agent.cli.settings import with_local_config
from provider_agent.agent.config import LoadedConfig
from provider_agent.agent.telemetry.ledger import LedgerEntry

COLUMNS: Final = (
    "ended_at",
    "id",
    "model",
    "backend",
    "format",
    "code",
    "bytes",
    "duration_ms",
    "first_byte_ms",
    "input_tokens",
    "output_tokens",
    "input_price_per_1m",
    "output_price_per_1m",
    "earned_usd",
    "sha256",
)
"""The columns of the CSV export. New ones are added at the end."""

_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""Spreadsheets run a text that begins with one of these; a coordinator chooses names of models.
Some of them accept the wide forms of East Asian keyboards, too."""


_FORMULA_IN_OTHER_CELL: Final = re.compile(r";(?=\s*[=+@-])")
"""Where a comma separates decimals, spreadsheets open CSV with a semicolon as its separator."""


@click.group(short_help="Sum up or export the ledger of ended jobs.")
def ledger() -> None:
    """Sum up or export the ledger of ended jobs.

    The agent writes the ledger if [observability] ledger_path is set: one entry per ended job with
    times, tokens, prices and the hash of the response, and no content.
    """


ledger.add_command(earnings, "sum")


@ledger.command(short_help="Print every job of the ledger as CSV or JSON Lines.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["csv", "jsonl"]),
    default="csv",
    show_default=True,
    help="CSV (RFC 4180) for spreadsheets, or the ledger's own lines.",
)
@period_options
@with_local_config
def export(
    loaded: LoadedConfig,
    output_format: Literal["csv", "jsonl"],
    since: float | None,
    until: float | None,
) -> None:
    """Print every job of the ledger, the oldest first, also from its full files.

    In CSV, times are in UTC, prices are millionths of a dollar per million tokens, and texts that a
    spreadsheet would run as a formula begin with an apostrophe. Lines that a power loss has damaged
    are skipped and counted on standard error.

    \b
    Example:
      provider-agent ledger export --since 2026-11-01 --until 2026-12-01 > november.csv
    """
    entries = SelectedEntries(loaded, since, until)
    lines = csv_lines(entries) if output_format == "csv" else json_lines(entries)
    for line in lines:
        sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
    entries.report_unreadable()


def json_lines(entries: Iterable[LedgerEntry]) -> Iterator[bytes]:
    """Yield each entry as a line of JSON."""
    for entry in entries:
        yield msgspec.json.encode(entry) + b"\n"


def csv_lines(entries: Iterable[LedgerEntry]) -> Iterator[bytes]:
    """Yield the header and a record for each entry (RFC 4180, UTF-8)."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)  # its default dialect ends records with CRLF, and doubles quotes
    writer.writerow(COLUMNS)
    yield buffer.getvalue().encode()
    for entry in entries:
        buffer.seek(0)
        buffer.truncate()
        writer.writerow(_record(entry))
        yield buffer.getvalue().encode("utf-8", "replace")


def _record(entry: LedgerEntry) -> list[str | int | None]:
    values = msgspec.structs.asdict(entry)
    values["ended_at"] = (
        datetime.fromtimestamp(entry.ended_at, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
    amount = earned(entry)
    # Not as a float: the amount is exact.
    values["earned_usd"] = None if amount is None else f"{Decimal(amount).scaleb(-12):f}"
    return [_without_formula(values[name]) for name in COLUMNS]


def _without_formula(value: str | int | None) -> str | int | None:
    if not isinstance(value, str):
        return value
    if normalize("NFKC", value[:1]).startswith(_FORMULA_STARTS):
        value = f"'{value}"
    return _FORMULA_IN_OTHER_CELL.sub(";'", value)
