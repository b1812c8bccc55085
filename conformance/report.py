"""Renders results as a table, JSON or JUnit XML."""

from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree

import msgspec
from msgspec import Struct
from rich import box
from rich.table import Table
from rich.text import Text

from provider_agent.conformance.case import Result, Verdict
from provider_agent.protocol.limits import SUBPROTOCOL

_STYLE: Final = {
    Verdict.HELD: "green",
    Verdict.NOT_HELD: "bold red",
    Verdict.NOT_FOLLOWED: "yellow",
    Verdict.NOT_TESTED: "dim",
}


class Report(Struct, frozen=True):
    """The results of a run.

    Attributes:
        subject: `coordinator` or `agent`.
        address: where the kit connected or listened.
        results: one for each case.
        early_end_reason: why the run ended early; "" if it did not.
        dialect: the protocol that was tested.
    """

    subject: str
    address: str
    results: list[Result]
    early_end_reason: str = ""
    dialect: str = SUBPROTOCOL

    @property
    def conforms(self) -> bool:
        """Whether no MUST was broken in a run that did not end early."""
        return not self.early_end_reason and all(
            result.verdict is not Verdict.NOT_HELD for result in self.results
        )

    def count(self, verdict: Verdict) -> int:
        """How many results have a verdict."""
        return sum(result.verdict is verdict for result in self.results)

    @property
    def summary(self) -> str:
        """The number of results with each verdict, in one line."""
        counts = ", ".join(f"{self.count(v)} {v}" for v in Verdict if self.count(v))
        noun = "rule" if len(self.results) == 1 else "rules"
        return f"{len(self.results)} {noun}: {counts}."


def table(results: Sequence[Result]) -> Table:
    """The results as a table."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("rule", no_wrap=True)
    shown.add_column("result", no_wrap=True)
    shown.add_column("statement (section) and observation", overflow="fold")
    for result in results:
        statement = Text(f"{result.rule} ")
        statement.append(f"(#{result.anchor})", style="dim")
        statement.append(f"\n{printable(result.observed)}", style=_STYLE[result.verdict])
        shown.add_row(result.id, Text(result.verdict, style=_STYLE[result.verdict]), statement)
    return shown


def to_json(report: Report) -> str:
    """The report as formatted JSON."""
    shown = {
        "subject": report.subject,
        "address": report.address,
        "dialect": report.dialect,
        "conforms": report.conforms,
        "ended_early": report.early_end_reason or None,
        "results": report.results,
    }
    return msgspec.json.format(msgspec.json.encode(shown)).decode()


def to_junit(report: Report) -> bytes:
    """The report as JUnit XML: a broken MUST fails; a rule not followed or not tested is skipped.

    A run that ended early has an error, in a test case `run`.
    """
    suite = ElementTree.Element(
        "testsuite",
        name=f"{report.dialect} {report.subject}",
        tests=str(len(report.results) + bool(report.early_end_reason)),
        errors=str(int(bool(report.early_end_reason))),
        failures=str(report.count(Verdict.NOT_HELD)),
        skipped=str(report.count(Verdict.NOT_TESTED) + report.count(Verdict.NOT_FOLLOWED)),
        time=f"{sum(result.duration_s for result in report.results):.3f}",
    )
    page = "protocol.md" if report.dialect == SUBPROTOCOL else "usepod.md"
    for result in report.results:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            name=result.id,
            classname=f"{page}#{result.anchor}",
            time=f"{result.duration_s:.3f}",
        )
        observed = printable(result.observed)
        if result.verdict is Verdict.NOT_HELD:
            failure = ElementTree.SubElement(case, "failure", message=observed)
            failure.text = result.rule
        elif result.verdict is not Verdict.HELD:
            message = f"{result.verdict}: {observed}"
            ElementTree.SubElement(case, "skipped", message=message)
    if report.early_end_reason:
        case = ElementTree.SubElement(suite, "testcase", name="run", classname="conformance")
        ElementTree.SubElement(case, "error", message=printable(report.early_end_reason))
    ElementTree.indent(suite)
    document: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return document


def printable(text: str) -> str:
    """Text of a peer, with a replacement for each character that is not printable."""
    return "".join(char if char.isprintable() else "�" for char in text)
