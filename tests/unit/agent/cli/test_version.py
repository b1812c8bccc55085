from click.testing import CliRunner

from tests.unit.agent.cli.calls import invoke


def test_version_prints_the_protocol(runner: CliRunner) -> None:
    assert "protocol       provider-agent.v1\n" in invoke(runner, "version").output
