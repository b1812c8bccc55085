import json

from click.testing import CliRunner

from provider_agent.agent.cli.main import main
from tests.unit.agent.cli.calls import COORDINATOR, ECHO, NO_KEY, invoke


def test_invalid_configuration_is_one_finding_and_exit_code_2(runner: CliRunner) -> None:
    result = invoke(runner, "check", "--json", config="[limits]\nmax_conccurent = 1\n")

    (finding,) = json.loads(result.output)["findings"]
    assert result.exit_code == 2
    assert finding["component"] == "configuration"
    assert finding["target"] == "agent.toml"
    assert finding["details"] == "limits.max_conccurent: unknown key"
    assert finding["what_to_do"] == 'did you mean "max_concurrent"?'


def test_target_of_an_invalid_configuration_is_environment_if_there_is_no_file(
    runner: CliRunner,
) -> None:
    env = {"PROVIDER_AGENT_LIMITS_MAX_CONCURRENT": "many"}
    result = runner.invoke(main, ["check", "--json"], env=env)

    (finding,) = json.loads(result.output)["findings"]
    assert result.exit_code == 2
    assert finding["target"] == "environment"


def test_check_continues_after_a_failure(runner: CliRunner) -> None:
    result = invoke(runner, "check", "--json", config=COORDINATOR + ECHO + NO_KEY)

    findings = json.loads(result.output)["findings"]
    assert result.exit_code == 1
    assert [(f["component"], f["outcome"]) for f in findings] == [
        ("configuration", "ok"),
        ("identity", "failed"),
        ("coordinator", "failed"),
        ("backend", "ok"),
        ("completion", "ok"),
        ("completion", "ok"),
        ("backend", "failed"),
    ]
    assert all(f["what_to_do"] for f in findings if f["outcome"] == "failed")


def test_missing_backend_fails_and_misspelled_variable_is_printed(runner: CliRunner) -> None:
    misspelled = {"PROVIDER_AGENT_LIMIT_MAX_CONCURRENT": "3"}
    result = invoke(runner, "check", config=COORDINATOR, **misspelled)

    assert result.exit_code == 1
    assert "PROVIDER_AGENT_LIMIT_MAX_CONCURRENT" in result.output.replace("\n", "")
    assert "no backend is configured" in result.output
    assert "to do: add a [[backends]] table" in result.output


def test_suspicious_prices_are_warnings_and_no_failures(runner: CliRunner) -> None:
    prices = "[pricing.models]\necko = { input_per_1m = 1, output_per_1m = 2_000_000 }\n"
    result = invoke(runner, "check", "--json", config=COORDINATOR + ECHO + prices)

    findings = json.loads(result.output)["findings"]
    warnings = [one for one in findings if one["outcome"] == "warning"]
    assert [(one["component"], one["target"]) for one in warnings] == [
        ("configuration", "agent.toml"),
        ("offer", "echo"),
        ("offer", '[pricing.models] "ecko"'),
    ]
    assert "less than one cent" in warnings[0]["details"]
    assert "no price" in warnings[1]["details"]
    assert warnings[2]["what_to_do"] == 'did you mean "echo"?'


def test_address_of_the_coordinator_can_be_an_option(runner: CliRunner) -> None:
    url = "ws://127.0.0.1:1/option"
    result = runner.invoke(main, ["check", "--json", "--coordinator-url", url])

    findings = json.loads(result.output)["findings"]
    (dialed,) = [f for f in findings if f["component"] == "coordinator"]
    assert (dialed["target"], dialed["outcome"]) == (url, "failed")
    assert dialed["details"].startswith("connection refused")


def test_insecure_address_as_an_option_needs_the_other_option(runner: CliRunner) -> None:
    url = ("--coordinator-url", "ws://far.invalid/")
    refused = runner.invoke(main, ["check", "--json", *url])
    dialed = runner.invoke(main, ["check", "--json", "--allow-insecure", *url])

    assert refused.exit_code == 2
    assert "--allow-insecure" in refused.output
    assert "no such host: far.invalid" in dialed.output


def test_every_invalid_setting_is_a_finding(runner: CliRunner) -> None:
    config = COORDINATOR + "[limits]\nmax_concurrent = 0\n[[backends]]\nkind = 'vlm'\n"
    result = invoke(runner, "check", "--json", config=config)

    findings = json.loads(result.output)["findings"]
    assert result.exit_code == 2
    assert [f["details"].partition(":")[0] for f in findings] == [
        "limits.max_concurrent",
        "backends[0].kind",
    ]
    assert all(f["what_to_do"] for f in findings)
