"""Extracts rules and observations from a conformance report, for assertions."""

from provider_agent.conformance.case import Verdict
from provider_agent.conformance.report import Report


def deviations(report: Report) -> dict[str, str]:
    """Return verdict and observation, by id, of each rule that did not hold or was not tested."""
    return {
        result.id: f"{result.verdict}: {result.observed}"
        for result in report.results
        if result.verdict is not Verdict.HELD
    }


def broken(report: Report) -> dict[str, str]:
    """Return the observation, by id, of each rule that was tested and did not hold."""
    return {
        result.id: result.observed
        for result in report.results
        if result.verdict in (Verdict.NOT_HELD, Verdict.NOT_FOLLOWED)
    }
