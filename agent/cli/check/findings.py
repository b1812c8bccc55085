"""What `check` finds out, and how it is shown: one row per thing that was tried."""

from collections.abc import Sequence
from enum import StrEnum

import click
import msgspec
from rich import box
from rich.table import Table
from rich.text import Text

from provider_agent.agent.cli.terminal import console, visible


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


def failure(component: str, target: str, message: str, otherwise: str) -> Finding:
    """A failure whose message may end in advice, as ours do: `reason; what to do`.

    Args:
        component: see `Finding`.
        target: see `Finding`; not repeated where the message begins with it.
        message: of an error of ours.
        otherwise: the advice for a message without one.
    """
    details, _, advice = message.removeprefix(f"{target}: ").partition("; ")
    return Finding(component, target, Outcome.FAILED, details, advice or otherwise)


def all_well(findings: Sequence[Finding]) -> bool:
    """Whether nothing failed."""
    return all(finding.outcome is not Outcome.FAILED for finding in findings)


def show(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print the findings for people or for programs."""
    if as_json:
        shown = {"ok": all_well(findings), "findings": findings}
        click.echo(msgspec.json.format(msgspec.json.encode(shown)).decode())
        return
    out = console()
    out.print(_table(findings))
    failed = sum(finding.outcome is Outcome.FAILED for finding in findings)
    out.print("All is well." if not failed else f"{failed} of {len(findings)} checks failed.")


def _table(findings: Sequence[Finding]) -> Table:
    # Without frames, and with the advice below the details, it is readable in eighty columns.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("target", overflow="fold")
    table.add_column("result", no_wrap=True)
    table.add_column("details", overflow="fold")
    style = {Outcome.OK: "green", Outcome.FAILED: "bold red", Outcome.SKIPPED: "yellow"}
    for finding in findings:
        details = Text(visible(finding.details))
        if finding.what_to_do:
            details.append(f"\nto do: {visible(finding.what_to_do)}", style="bold")
        table.add_row(
            finding.component,
            visible(finding.target),
            Text(finding.outcome, style=style[finding.outcome]),
            details,
        )
    return table
