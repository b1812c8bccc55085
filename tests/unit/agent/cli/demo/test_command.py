import json
import shlex

import pytest
from click.testing import CliRunner
from rich.console import Console

from provider_agent.adapters.base import Usage
from provider_agent.agent.cli.demo.command import DemoResult, _curl, _print_results
from provider_agent.protocol.formats import Operation, WireFormat
from provider_agent.protocol.frames import ModelOffer
from tests.unit.agent.cli.calls import invoke

MODEL_ID = "organization/a-model-with-a-rather-long-name-7B-Instruct-Q4_K_M"


def demo_result(
    model_id: str = MODEL_ID, *, identical: bool = True, problem: str = ""
) -> DemoResult:
    offer = ModelOffer(model_id, ["openai"], ["chat"], None, True, "llamacpp", 8, None, None)
    return DemoResult(
        offer, WireFormat.ANTHROPIC, 1234.5, 123_456, identical, Usage(None, 48), problem
    )


def printed_table(*results: DemoResult) -> str:
    out = Console(width=80, markup=False, emoji=False, highlight=False)
    with out.capture() as captured:
        _print_results(list(results), out)
    return captured.get()


def test_table_is_not_truncated_in_eighty_columns() -> None:
    shown = printed_table(demo_result())

    assert "llamacpp  anthropic  1234 ms     123456  yes        ?/48" in shown
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80


def test_long_model_name_is_folded() -> None:
    rows = [line.split() for line in printed_table(demo_result()).splitlines()[3:-2]]
    pieces = [row[0] for row in rows if row]

    assert "".join(pieces) == MODEL_ID


def test_table_reports_a_response_that_was_altered() -> None:
    assert " no " in printed_table(demo_result(identical=False))


def test_markup_in_a_problem_is_printed_literally() -> None:
    shown = printed_table(demo_result(problem="status 500: [backend] says no"))

    assert "anthropic failed: status 500: [backend] says no" in shown


@pytest.mark.parametrize("port", ["-1", "65536", "x"])
def test_invalid_port_is_refused(port: str, runner: CliRunner) -> None:
    result = invoke(runner, "demo", "--port", port)

    assert result.exit_code == 2
    assert "Invalid value for '--port'" in result.output


def test_curl_command_is_safe_for_any_model_id() -> None:
    words = shlex.split(_curl("http://127.0.0.1:1", Operation.CHAT, "it's $(id)"))

    assert words[:3] == ["curl", "-N", "http://127.0.0.1:1/v1/chat/completions"]
    assert json.loads(words[-1])["model"] == "it's $(id)"
