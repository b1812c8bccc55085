import logging

import pytest
from click.testing import CliRunner

from provider_agent.coordinator.command import command
from provider_agent.coordinator.variables import check_variables


@pytest.mark.parametrize(
    "name",
    [
        "COORDINATOR_API_KEY",
        "COORDINATOR_CLIENT_KEYS",
        "COORDINATOR_ENROLMENT_CODES",
        "COORDINTOR_API_KEYS",
    ],
)
def test_variable_that_resembles_one_for_keys_exits_with_2(name: str) -> None:
    # Regression: the hint for COORDINATOR_CLIENT_KEYS named the variable for the keys of agents.
    result = CliRunner().invoke(command, env={name: "secret"})
    assert result.exit_code == 2
    assert f"the variable {name} is not used; API keys of clients are read from" in result.output
    assert "secret" not in result.output


@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("COORDINATOR_MAX_PRICE", {"variable": "COORDINATOR_MAX_PRICE", "option": "--max-price"}),
        ("COORDINATOR_PRICE", {"variable": "COORDINATOR_PRICE"}),
        ("COORDINATOR_API_KEYS", None),
        ("COORDINATOR_SERVICE_HOST", None),
        ("COORDINATOR_SERVICE_PORT_HTTP", None),
        ("COORDINATOR_PORT", None),
        ("COORDINATOR_PORT_8700_TCP_ADDR", None),
        ("PATH", None),
    ],
)
def test_other_variable_with_the_prefix_is_reported(
    caplog: pytest.LogCaptureFixture, name: str, reported: dict[str, str] | None
) -> None:
    # Regression: COORDINATOR_MAX_PRICE was ignored silently.
    check_variables({name: "5"}, {"--max-price"})
    fields = [getattr(record, "fields", {}) for record in caplog.records]
    assert fields == ([] if reported is None else [reported])
    assert all(record.levelno == logging.WARNING for record in caplog.records)
