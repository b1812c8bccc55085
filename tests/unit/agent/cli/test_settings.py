import asyncio
import logging
import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from provider_agent.adapters.servers.echo import EchoBackend
from provider_agent.agent.cli.main import main
from provider_agent.agent.cli.settings import (
    EXIT_CONFIG,
    load_settings,
    run_async,
    start_logging,
    with_config,
    with_local_config,
)
from provider_agent.agent.config import LoadedConfig
from provider_agent.agent.identity.key import IdentityError
from tests.unit.agent.cli.calls import COORDINATOR, ECHO, invoke

URL = "wss://c.example/provider/connect"


@click.command()
@click.option("--word", default="w")
@with_config
def command_with_config(loaded: LoadedConfig, word: str) -> None:
    click.echo(f"{word} {loaded.config.coordinator.url} {loaded.path}")


@click.command()
@with_local_config
def command_with_local_config(loaded: LoadedConfig) -> None:
    click.echo(f"{loaded.config.coordinator.url} {loaded.config.limits.max_concurrent}")


def test_command_receives_options_and_configuration(runner: CliRunner) -> None:
    Path("mine.toml").write_text(f'[coordinator]\nurl = "{URL}"\n', "utf-8")

    result = runner.invoke(command_with_config, ["--word", "hello", "-c", "mine.toml"])

    assert result.output == f"hello {URL} mine.toml\n"


def test_missing_setting_prints_one_line_and_exits_with_2(runner: CliRunner) -> None:
    result = runner.invoke(command_with_config)

    assert result.exit_code == EXIT_CONFIG
    assert result.output.startswith("Error: coordinator.url: missing; `provider-agent init` writes")
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("line", ["", 'url = "ftp://nonsense"', f'url = "{URL}"'])
def test_local_command_ignores_the_coordinators_address(line: str, runner: CliRunner) -> None:
    Path("agent.toml").write_text(f"[coordinator]\n{line}\n[limits]\nmax_concurrent = 3", "utf-8")

    result = runner.invoke(command_with_local_config)

    assert (result.exit_code, result.output) == (0, "wss://not-set.invalid 3\n")


def test_local_command_checks_every_other_setting(runner: CliRunner) -> None:
    Path("agent.toml").write_text("[limits]\nmax_concurrent = 0\n", "utf-8")

    result = runner.invoke(command_with_local_config)

    assert result.exit_code == EXIT_CONFIG
    assert "agent.toml: limits.max_concurrent: expected a whole number >= 1" in result.output


@pytest.mark.parametrize(
    "arguments", [("run", "--key-path", "key"), ("models",), ("ask", "m", "hello"), ("check",)]
)
def test_adapter_that_cannot_be_created_prints_a_message_and_exits_with_2(
    arguments: tuple[str, ...], runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In an earlier version, the commands printed a traceback and exited with 1.
    def refuse(*_: object) -> None:
        raise RuntimeError("no license")

    monkeypatch.setattr(EchoBackend, "__init__", refuse)
    result = invoke(runner, *arguments, config=COORDINATOR + ECHO)

    text = " ".join(result.output.split())
    assert result.exit_code == EXIT_CONFIG
    assert "the adapter of kind 'echo' cannot be created: RuntimeError: no license" in text
    assert "update its package" in text
    assert "Traceback" not in text


def test_identity_error_becomes_a_setup_error() -> None:
    async def fail() -> None:
        raise IdentityError("key: damaged")

    with pytest.raises(click.ClickException, match="key: damaged") as caught:
        run_async(fail())

    assert caught.value.exit_code == EXIT_CONFIG


def test_result_of_the_coroutine_is_returned() -> None:
    assert run_async(asyncio.sleep(0, "done")) == "done"


def test_secrets_are_redacted_in_the_log(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(f'[coordinator]\nurl = "{URL}"\nenrollment_code = "SECRET-CODE-1"', "utf-8")

    start_logging(load_settings(file, {}))
    logging.getLogger("provider_agent.test").warning("code SECRET-CODE-1")

    logged = capsys.readouterr().err
    assert "code [redacted]" in logged
    assert "SECRET" not in logged


def test_file_that_cannot_be_read_is_reported_as_every_other_setting(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`click` said "Path … is not readable", with the usage instead of a finding."""
    Path("agent.toml").touch()

    def open_as_other_user(_path: Path, *_arguments: object) -> object:
        raise PermissionError(13, "Permission denied")  # tests may run as root, who can read it

    monkeypatch.setattr(os, "access", lambda *_arguments, **_options: False)
    monkeypatch.setattr(Path, "open", open_as_other_user)
    result = runner.invoke(main, ["check", "-c", "agent.toml"])

    assert result.exit_code == EXIT_CONFIG
    assert "cannot be read: Permission denied" in result.output
