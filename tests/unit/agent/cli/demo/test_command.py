import pytest
from click.testing import CliRunner
from rich.console import Console

from provider_agent.adapters.responses.events import Usage
from provider_agent.agent.cli.demo.command import DemoRequest, _summary
from provider_agent.protocol.formats import WireFormat
from provider_agent.protocol.frames import ModelOffer
from tests.unit.agent.cli.calls import invoke

NAME = "organisation/a-model-with-a-rather-long-name-7B-Instruct-Q4_K_M"


def demo_request(name: str = NAME, *, identical: bool = True, problem: str = "") -> DemoRequest:
    offer = ModelOffer(name, ["openai"], ["chat"], None, True, "llamacpp", 8, None, None)
    return DemoRequest(
        offer, WireFormat.ANTHROPIC, 1234.5, 123_456, identical, Usage(None, 48), problem
    )


def summary(*requests: DemoRequest) -> str:
    out = Console(width=80, markup=False, emoji=False, highlight=False)
    with out.capture() as captured:
        _summary(list(requests), out)
    return captured.get()


def test_numbers_are_not_wrapped_in_eighty_columns() -> None:
    shown = summary(demo_request())

    assert "llamacpp  anthropic  1234 ms     123456  yes        ?/48" in shown
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80


def test_a_long_model_name_is_folded_and_not_cut() -> None:
    rows = [line.split() for line in summary(demo_request()).splitlines()[3:-2]]
    pieces = [row[0] for row in rows if row]

    assert "".join(pieces) == NAME


def test_differing_bytes_are_reported() -> None:
    assert " no " in summary(demo_request(identical=False))


def test_brackets_in_a_problem_are_printed() -> None:
    shown = summary(demo_request(problem="status 500: [backend] says no"))

    assert "anthropic failed: status 500: [backend] says no" in shown


@pytest.mark.parametrize("port", ["-1", "65536", "x"])
def test_invalid_port_is_rejected(port: str, runner: CliRunner) -> None:
    result = invoke(runner, "demo", "--port", port)

    assert result.exit_code == 2
    assert "Invalid value for '--port'" in result.output
