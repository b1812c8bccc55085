"""The findings of `check`, and how they are printed: one block per check."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec
from rich.text import Text

from provider_agent.advised_error import AdvisedError
from provider_agent.agent.cli.terminal import console, print_json, visible


class Outcome(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARNING = "warning"
    """Passed, but a setting is probably a mistake."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """Not performed: excluded by the operator (`--no-completions`), or not possible now."""


_STYLES: Final = {
    Outcome.OK: "green",
    Outcome.WARNING: "bold yellow",
    Outcome.FAILED: "bold red",
    Outcome.SKIPPED: "yellow",
}

_INDENT: Final = 1 + max(map(len, Outcome))
_COMPONENT_WIDTH: Final = len("configuration")


class Finding(msgspec.Struct, frozen=True):
    """One check and its result.

    Attributes:
        component: configuration, identity, coordinator, schedule, backend, completion or offer.
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
    """Print the findings as text or as JSON."""
    if as_json:
        shown = {"ok": all_passed(findings), "findings": findings}
        print_json(shown)
        return
    out = console()
    for finding in findings:
        out.print(_lines(finding, out.width), soft_wrap=True)
    out.print()
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


def _lines(finding: Finding, width: int) -> Text:
    """Return the lines of one check: its result, then the details and the advice below each other.

    Lines are broken only between words, so that addresses, keys and paths can be copied.
    """
    lines = Text()
    lines.append(f"{finding.outcome:<{_INDENT - 1}} ", style=_STYLES[finding.outcome])
    lines.append(f"{finding.component:<{_COMPONENT_WIDTH}} {visible(finding.target)}")
    lines.append(f"\n{_wrapped(finding.details, width)}")
    if finding.what_to_do:
        lines.append(f"\n{_wrapped(f'to do: {finding.what_to_do}', width)}", style="bold")
    return lines


def _wrapped(text: str, width: int) -> str:
    indent = " " * _INDENT
    return textwrap.fill(
        visible(text),
        width=max(width, 2 * _INDENT),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
