"""Reports how many examples and steps each test of a long run executed."""

from collections.abc import Generator

import pytest
from _pytest.terminal import TerminalReporter

from tests.fuzz.depth import EXAMPLES_VARIABLE, IS_LONG, STEPS_DONE


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Attach the counts to the test's report, which an xdist worker sends to the main process."""
    STEPS_DONE.clear()
    try:
        yield
    finally:
        if IS_LONG:
            item.user_properties.append(("counts", dict(STEPS_DONE)))


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    if not IS_LONG:
        return
    terminalreporter.section(f"fuzz ({EXAMPLES_VARIABLE})")
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            _write_line(terminalreporter, outcome, report)


def _write_line(terminal: TerminalReporter, outcome: str, report: pytest.TestReport) -> None:
    executed = dict(report.user_properties).get("counts")
    name = report.nodeid.removeprefix("tests/fuzz/").removesuffix("::runTest")
    counts = "" if not isinstance(executed, dict) else _format_counts(executed)
    terminal.line(f"{outcome}  {name}: {counts or 'nothing counted'} in {report.duration:.0f} s")


def _format_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
