import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from provider_agent.agent.cli.main import main

COMMANDS = main.list_commands(click.Context(main))


def test_help_is_printed_without_a_command(runner: CliRunner) -> None:
    result = runner.invoke(main)

    assert "First steps:" in result.output
    assert all(f"\n  {name} " in result.output for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_describes_every_command_in_the_command_s_own_words(
    name: str, runner: CliRunner
) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None

    result = runner.invoke(main)

    lines = [line.split(maxsplit=1) for line in result.output.splitlines()]
    assert [name, command.get_short_help_str(limit=80)] in lines


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_fits_into_eighty_columns(name: str, runner: CliRunner) -> None:
    result = runner.invoke(main, [name, "--help"])

    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: main {name}")
    assert max(map(len, result.output.splitlines())) <= 80


@pytest.mark.parametrize("name", sorted({*COMMANDS} - {"config", "version"}))
def test_every_option_of_every_command_has_a_help_text(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None

    without_help = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]

    # `--log-level` of the command `coordinator` has none: its list of choices says enough.
    assert without_help in ([], ["log_level"])


def test_unknown_command_exits_with_2(runner: CliRunner) -> None:
    result = runner.invoke(main, ["nonsense"])

    assert result.exit_code == 2
    assert "No such command 'nonsense'" in result.output
    assert "Did you mean" not in result.output


def test_ctrl_c_exits_with_130_without_a_message(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(main), "get_command", lambda *_: interrupted)

    result = runner.invoke(main, ["version"])

    assert (result.exit_code, result.output) == (130, "\n")


@pytest.mark.parametrize(
    ("module", "unneeded"),
    [
        (
            "provider_agent.agent.cli.main",
            "msgspec nacl aiohttp websockets rich prometheus_client",
        ),
        (
            "provider_agent.agent.cli.run",
            (
                "aiohttp websockets rich prometheus_client provider_agent.coordinator "
                "provider_agent.agent.cli.demo"
            ),
        ),
    ],
)
def test_module_does_not_import_packages_that_it_does_not_need(module: str, unneeded: str) -> None:
    code = f"import sys, {module}; print(*[n for n in {unneeded.split()!r} if n in sys.modules])"

    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert loaded.stdout.split() == []
