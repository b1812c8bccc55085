"""Prints what a long run did: examples and steps, by test."""

from collections.abc import Generator

import pytest
from _pytest.terminal import TerminalReporter

from tests.fuzz.depth import EXAMPLES_VARIABLE, IS_LONG, STEPS_DONE


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """A worker's count travels to the terminal with its report."""
    STEPS_DONE.clear()
    try:
        yield
    finally:
        if IS_LONG:
            item.user_properties.append(("done", dict(STEPS_DONE)))


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    if not IS_LONG:
        return
    terminalreporter.section(f"fuzz ({EXAMPLES_VARIABLE})")
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            _tell(terminalreporter, outcome, report)


def _tell(terminal: TerminalReporter, outcome: str, report: pytest.TestReport) -> None:
    done = dict(report.user_properties).get("done")
    name = report.nodeid.removeprefix("tests/fuzz/").removesuffix("::runTest")
    counts = "" if not isinstance(done, dict) else _listed(done)
    terminal.line(f"{outcome}  {name}: {counts or 'nothing counted'} in {report.duration:.0f} s")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
