"""The scenarios of `make test-faults`, at a small scale."""

import pytest

from tests.faults.scenarios.scenario import SHORT, Scenario, run_scenario
from tests.faults.scenarios.table import TABLE


@pytest.mark.parametrize("scenario", TABLE, ids=lambda scenario: scenario.name.replace(" ", "-"))
def test_scenario_meets_its_expectation(scenario: Scenario) -> None:
    outcome = run_scenario(scenario, SHORT, debug=True)
    if outcome.error is not None:
        raise outcome.error
