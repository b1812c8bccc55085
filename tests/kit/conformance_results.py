"""Extracts rules and observations from a conformance report, for assertions."""

from collections.abc import Mapping, Sequence

from provider_agent.conformance.case import Verdict
from provider_agent.conformance.report import Report
from provider_agent.conformance.usepod_cases import UNKNOWN, VersionOneCases


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


def assert_complete(
    version_1: VersionOneCases, case_ids: Sequence[str], not_applicable: Mapping[str, str]
) -> None:
    """Assert that every case of version 1 applies to the dialect, or has one reason against it."""
    listed = [case_id for ids in version_1.reasons.values() for case_id in ids]
    assert len(set(listed)) == len(listed)
    assert version_1.applicable.keys() | set(listed) <= set(case_ids)
    assert version_1.applicable.keys() | not_applicable.keys() == set(case_ids)
    assert version_1.applicable.keys() & not_applicable.keys() == set()
    assert [case for case, reason in not_applicable.items() if reason == UNKNOWN] == []
