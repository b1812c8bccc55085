import asyncio

import pytest
from click.testing import CliRunner

from tests.kit.fakes.openai_compatible import MODEL, FakeOpenAICompatible
from tests.kit.fakes.server import json_response
from tests.unit.agent.cli.calls import COORDINATOR, ECHO, NO_KEY, invoke

DOWN = '[[backends]]\nkind = "vllm"\nurl = "http://127.0.0.1:1"\n'


@pytest.mark.parametrize("wire_format", ["openai", "anthropic"])
@pytest.mark.parametrize("coordinator", ["", COORDINATOR])
def test_ask_writes_text_to_stdout_and_statistics_to_stderr(
    wire_format: str, coordinator: str, runner: CliRunner
) -> None:
    result = invoke(
        runner, "ask", "echo", "two words", "--format", wire_format, config=coordinator + ECHO
    )

    assert (result.exit_code, result.stdout) == (0, "two words\n")
    assert f"\necho, {wire_format}: first byte after " in result.stderr
    assert " 2 out, " in result.stderr


def test_ask_for_an_unknown_model_lists_the_served_ones(runner: CliRunner) -> None:
    result = invoke(runner, "ask", "ecco", "hi", config=ECHO + NO_KEY + DOWN)

    assert (result.exit_code, result.stdout) == (1, "")
    lines = result.stderr.splitlines()
    assert lines[0].startswith("ecco: model_not_loaded: ")
    assert lines[1:3] == ["These models are served:", "  echo  (anthropic, openai)"]
    assert lines[3].startswith("vllm:http://127.0.0.1:1: connection refused")
    assert lines[4].startswith("venice: skipped: the environment variable KEY_THAT_IS_NOT_SET")


def test_ask_without_a_backend_prints_advice(runner: CliRunner) -> None:
    result = invoke(runner, "ask", "m", "hi")

    assert result.exit_code == 1
    assert "add a [[backends]] table for each of your servers" in result.stderr


async def test_ask_prints_the_servers_error_without_control_characters(runner: CliRunner) -> None:
    error = {"error": {"message": "too \x1b[2Jlong"}}
    async with FakeOpenAICompatible() as server:
        server.script_jobs(json_response(error, 400))
        config = f'[[backends]]\nkind = "openai_compatible"\nurl = "{server.url}"\n'
        result = await asyncio.to_thread(lambda: invoke(runner, "ask", MODEL, "hi", config=config))

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"openai_compatible:{server.url}: bad_request: ")
    assert "too \ufffd[2Jlong" in result.stderr
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize(
    "option", [("--timeout", "0"), ("--timeout", "-1"), ("--max-tokens", "0"), ("--format", "xml")]
)
def test_invalid_option_is_refused(option: tuple[str, str], runner: CliRunner) -> None:
    result = invoke(runner, "ask", "echo", "hi", *option, config=ECHO)

    assert result.exit_code == 2
    assert f"Invalid value for '{option[0]}'" in result.stderr
