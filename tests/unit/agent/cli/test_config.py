import json

import pytest
from click.testing import CliRunner

from tests.unit.agent.cli.calls import COORDINATOR, invoke


def test_config_show_prints_origins_and_masks_secrets(runner: CliRunner) -> None:
    env = {"PROVIDER_AGENT_LIMITS_MAX_CONCURRENT": "3", "PROVIDER_AGENT_LIMITS_MAX_CONCURENT": "4"}

    result = invoke(runner, "config", "show", config=COORDINATOR, **env)

    assert 'coordinator.enrollment_code = "[set]"   (agent.toml)\n' in result.output
    assert (
        "limits.max_concurrent = 3   (environment PROVIDER_AGENT_LIMITS_MAX_CONCURRENT)"
        in result.output
    )
    assert 'observability.log_format = "text"   (default)\n' in result.output
    assert "warning: the environment variable PROVIDER_AGENT_LIMITS_MAX_CONCURENT" in result.stderr


def test_config_show_json_masks_secrets_and_names_origins(runner: CliRunner) -> None:
    result = invoke(runner, "config", "show", "--json", config=COORDINATOR)

    shown = json.loads(result.output)
    assert shown["settings"]["coordinator"]["enrollment_code"] == "[set]"
    assert shown["origins"]["coordinator.url"] == "agent.toml"
    assert shown["warnings"] == []


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_config_show_replaces_bytes_of_a_variable_that_are_not_utf8(
    options: tuple[str, ...], runner: CliRunner
) -> None:
    env = {"PROVIDER_AGENT_OPERATOR_DISPLAY_NAME": "M\udcfcller"}  # as Python decodes such a byte

    result = invoke(runner, "config", "show", *options, config=COORDINATOR, **env)

    assert "M\N{REPLACEMENT CHARACTER}ller" in result.output
