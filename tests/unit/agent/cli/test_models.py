import json

from click.testing import CliRunner

from tests.unit.agent.cli.calls import ECHO, NO_KEY, invoke


def test_models_lists_what_would_be_offered_and_what_not(runner: CliRunner) -> None:
    result = invoke(runner, "models", config=ECHO + NO_KEY)

    assert result.exit_code == 0
    assert "│ echo  │ echo    │ anthropic, openai │ unknown │" in result.output
    assert "venice: skipped: the environment variable KEY_THAT_IS_NOT_SET" in result.output


def test_models_for_programs(runner: CliRunner) -> None:
    shown = json.loads(invoke(runner, "models", "--json", config=ECHO + NO_KEY).output)

    assert [model["model_id"] for model in shown["models"]] == ["echo"]
    assert [problem["backend"] for problem in shown["problems"]] == ["venice"]


def test_models_without_any_backend_says_what_to_add(runner: CliRunner) -> None:
    result = invoke(runner, "models")

    assert result.exit_code == 1
    assert "No model to offer.\n" in result.output
    assert "add a [[backends]] table for each of your servers" in result.output
