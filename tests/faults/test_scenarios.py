"""The scenarios of `make test-faults`, at a small scale."""

from dataclasses import replace
from typing import Final

import pytest

from provider_agent.protocol.limits import SUBPROTOCOL
from tests.faults.scenarios.scenario import SHORT, Scenario, run_scenario
from tests.faults.scenarios.table import NOT_ON_USEPOD, ON_USEPOD, TABLE, scenarios_of

USEPOD: Final = "usepod"


def name_of(value: Scenario | str) -> str:
    return value if isinstance(value, str) else value.name.replace(" ", "-")


@pytest.mark.parametrize(
    ("dialect", "scenario"),
    [(dialect, one) for dialect in (SUBPROTOCOL, USEPOD) for one in scenarios_of(dialect)],
    ids=name_of,
)
def test_scenario_meets_its_expectation(dialect: str, scenario: Scenario) -> None:
    outcome = run_scenario(scenario, replace(SHORT, dialect=dialect), debug=True)
    if outcome.error is not None:
        raise outcome.error


def test_every_scenario_runs_over_usepod_or_has_a_reason() -> None:
    assert ON_USEPOD.keys() | NOT_ON_USEPOD.keys() == {one.name for one in TABLE}
    assert not ON_USEPOD.keys() & NOT_ON_USEPOD.keys()
    assert all(NOT_ON_USEPOD.values())
