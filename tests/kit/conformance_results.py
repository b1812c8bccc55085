"""What a conformance report says, for assertions."""

from provider_agent.conformance.case import Verdict
from provider_agent.conformance.report import Report


def deviations(report: Report) -> dict[str, str]:
    """Every rule that did not hold: its id, and what was observed."""
    return {
        result.id: f"{result.verdict}: {result.observed}"
        for result in report.results
        if result.verdict is not Verdict.HELD
    }
