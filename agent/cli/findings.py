"""What `check` finds out, and how it is shown: one row per thing that was tried."""

from collections.abc import Sequence
from enum import StrEnum

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text


class Outcome(StrEnum):
    """How a trial went."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"
    """Not tried, because something before it failed, or because nobody asked for it."""


class Finding(msgspec.Struct, frozen=True):
    """One trial.

    Attributes:
        component: what was tried: configuration, identity, coordinator, backend, completion.
        target: which one.
        outcome: how it went.
        details: what was seen.
        what_to_do: for a failure; "" otherwise.
    """

    component: str
    target: str
    outcome: Outcome
    details: str
    what_to_do: str = ""


def all_well(findings: Sequence[Finding]) -> bool:
    """Whether nothing failed."""
    return all(finding.outcome is not Outcome.FAILED for finding in findings)


def show(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print the findings for people or for programs."""
    if as_json:
        shown = {"ok": all_well(findings), "findings": findings}
        click.echo(msgspec.json.format(msgspec.json.encode(shown)).decode())
        return
    console = Console()
    if not console.is_terminal:
        # A log or a pipe has no width; eighty columns would only break the sentences.
        console.width = 200
    table = Table("check", "target", "result", "details", "what to do")
    style = {Outcome.OK: "green", Outcome.FAILED: "bold red", Outcome.SKIPPED: "yellow"}
    for finding in findings:
        table.add_row(
            finding.component,
            Text(finding.target),
            Text(finding.outcome, style=style[finding.outcome]),
            Text(finding.details),
            Text(finding.what_to_do),
        )
    console.print(table)
    failed = sum(finding.outcome is Outcome.FAILED for finding in findings)
    console.print("All is well." if not failed else f"{failed} of {len(findings)} checks failed.")
