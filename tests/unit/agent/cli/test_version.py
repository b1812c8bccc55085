from importlib.machinery import EXTENSION_SUFFIXES

from click.testing import CliRunner

from provider_agent.protocol import send_stream
from tests.unit.agent.cli.calls import invoke


def test_version_prints_the_protocol(runner: CliRunner) -> None:
    assert "protocol       provider-agent.v1\n" in invoke(runner, "version").output


def test_version_says_whether_the_hot_modules_are_compiled(runner: CliRunner) -> None:
    compiled = send_stream.__file__.endswith(tuple(EXTENSION_SUFFIXES))

    assert f"\ncompiled       {'yes' if compiled else 'no'}\n" in invoke(runner, "version").output
