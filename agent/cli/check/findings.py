"""The findings of `check`, and how they are printed: one row per check."""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

import click
import msgspec
from rich import box
from rich.table import Table
from rich.text import Text

from provider_agent.advised_error import AdvisedError
from provider_agent.agent.cli.terminal import console, visible


class Outcome(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARNING = "warning"
    """Passed, but a setting is probably a mistake."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """Not performed: excluded by the operator (`--no-completions`), or not possible now."""


class Finding(msgspec.Struct, frozen=True):
    """One check and its result.

    Attributes:
        component: configuration, identity, coordinator, backend, completion or offer.
        target: the file, address, backend, model or setting that was checked.
        outcome: the result.
        details: what was found.
        what_to_do: advice for a failure or a warning; "" otherwise.
    """

    component: str
    target: str
    outcome: Outcome
    details: str
    what_to_do: str = ""


def failure(component: str, target: str, error: AdvisedError, default_advice: str) -> Finding:
    """Create the finding for a failed check.

    Args:
        component: see `Finding`.
        target: see `Finding`; removed from the start of the error's problem.
        error: why the check failed.
        default_advice: advice for an error that has none.
    """
    details = error.problem.removeprefix(f"{target}: ")
    return Finding(component, target, Outcome.FAILED, details, error.advice or default_advice)


def all_passed(findings: Sequence[Finding]) -> bool:
    """Whether no check failed."""
    return all(finding.outcome is not Outcome.FAILED for finding in findings)


def show(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print the findings as a table or as JSON."""
    if as_json:
        shown = {"ok": all_passed(findings), "findings": findings}
        click.echo(msgspec.json.format(msgspec.json.encode(shown)).decode())
        return
    out = console()
    out.print(_table(findings))
    out.print(_summary(Counter(finding.outcome for finding in findings)))


def _summary(count: Counter[Outcome]) -> str:
    failed, skipped = count[Outcome.FAILED], count[Outcome.SKIPPED]
    warnings = count[Outcome.WARNING]
    performed = failed + warnings + count[Outcome.OK]
    checks = f"{performed} check" if performed == 1 else f"{performed} checks"
    if failed:
        summary = f"{failed} of {checks} failed"
    else:
        summary = f"{checks} passed" if skipped else "All checks passed"
    if skipped:
        summary += f", {skipped} skipped"
    if warnings:
        summary += f", {warnings} with a warning"
    return f"{summary}."


def _table(findings: Sequence[Finding]) -> Table:
    # Without borders, and with the advice below the details, the table fits into eighty columns.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("target", overflow="fold")
    table.add_column("result", no_wrap=True)
    table.add_column("details", overflow="fold")
    style = {
        Outcome.OK: "green",
        Outcome.WARNING: "bold yellow",
        Outcome.FAILED: "bold red",
        Outcome.SKIPPED: "yellow",
    }
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
