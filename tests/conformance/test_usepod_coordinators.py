"""Runs the conformance kit over the dialect `usepod` against our coordinator, with faults too."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from provider_agent.conformance.coordinator_run import (
    CASE_IDS,
    NOT_APPLICABLE,
    case_ids,
    run_against_coordinator,
)
from provider_agent.conformance.coordinator_under_test import CoordinatorTarget
from provider_agent.conformance.of_coordinator.usepod_version_1 import VERSION_1
from provider_agent.conformance.report import to_junit
from provider_agent.conformance.usepod_cases import DIALECT
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings, ExtraDialect
from tests.kit.conformance_results import assert_complete, broken, deviations
from tests.kit.faulty_usepod_coordinator import AGENTS, FAULTS, faulty_dialect
from tests.kit.virtual_time import in_virtual_time, now


@asynccontextmanager
async def running_coordinator(
    random_bytes: Callable[[int], bytes] | None = None, **changed: Any
) -> AsyncIterator[CoordinatorTarget]:
    """Run our coordinator, which also serves agents of the dialect."""
    dialects = frozenset({ExtraDialect.USEPOD})
    settings = CoordinatorSettings(port=0, drain_s=0, dialects=dialects, **changed)
    random: dict[str, Any] = {} if random_bytes is None else {"random_bytes": random_bytes}
    async with Coordinator(settings, clock=now, **random) as coordinator:
        yield CoordinatorTarget(
            coordinator.connect_url, coordinator.http_url, enrollment_code="POD-1", dialect=DIALECT
        )


@in_virtual_time
async def test_our_coordinator_conforms() -> None:
    async with running_coordinator() as target:
        report = await run_against_coordinator(target, ())

    assert deviations(report) == {}
    assert [result.id for result in report.results] == case_ids(DIALECT)
    assert b'name="usepod coordinator"' in to_junit(report)


@pytest.mark.parametrize("name", FAULTS)
@in_virtual_time
async def test_the_kit_finds_a_planted_fault(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[name]
    monkeypatch.setattr(f"{AGENTS}.dialects.UsepodCoordinatorDialect", faulty_dialect(fault))
    for target_name, replacement in fault.replaces:
        monkeypatch.setattr(target_name, replacement)
    async with running_coordinator(fault.random_bytes, **dict(fault.settings)) as target:
        report = await run_against_coordinator(target, [fault.case, "response-streams", "error"])

    assert fault.case in broken(report)


def test_every_case_has_a_planted_fault() -> None:
    assert {fault.case for fault in FAULTS.values()} == set(case_ids(DIALECT))


def test_every_case_of_version_1_applies_or_has_a_reason() -> None:
    assert_complete(VERSION_1, CASE_IDS, NOT_APPLICABLE)
