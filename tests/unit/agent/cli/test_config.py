import json
from pathlib import Path

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


def test_config_show_prints_prices_in_both_forms(runner: CliRunner) -> None:
    prices = """[pricing]
default_input_per_1m = "0.50 USD"
default_output_per_1m = 750_000
[pricing.models]
"m.1" = { input_per_1m = "1.5 USD", output_per_1m = 5 }
"""
    result = invoke(runner, "config", "show", config=COORDINATOR + prices)

    shown = [line for line in result.stdout.splitlines() if line.startswith("pricing.")]
    assert shown == [
        "pricing.default_input_per_1m = 500000 (0.50 USD per million tokens)   (agent.toml)",
        "pricing.default_output_per_1m = 750000 (0.75 USD per million tokens)   (agent.toml)",
        'pricing.models."m.1".input_per_1m = 1500000 (1.50 USD per million tokens)   (agent.toml)',
        'pricing.models."m.1".output_per_1m = 5 (0.000005 USD per million tokens)   (agent.toml)',
    ]


def test_config_show_without_prices(runner: CliRunner) -> None:
    result = invoke(runner, "config", "show", config=COORDINATOR)

    assert "pricing.default_input_per_1m = null   (default)\n" in result.output
    assert "pricing.models = {}   (default)\n" in result.output


def test_config_example_prints_the_file_that_the_wheel_contains(runner: CliRunner) -> None:
    result = invoke(runner, "config", "example")

    assert result.exit_code == 0
    assert result.output == (Path(__file__).parents[4] / "agent.example.toml").read_text("utf-8")
