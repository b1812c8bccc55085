import asyncio
import gc
import socket
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from provider_agent.agent.cli.main import main
from provider_agent.agent.cli.run import log_failed_task, run, wanted_traces
from provider_agent.agent.config.flags import FLAGS
from provider_agent.agent.service import Service
from tests.unit.agent.cli.calls import COORDINATOR, ECHO, invoke


def test_options_are_config_replace_and_the_documented_flags() -> None:
    options = {name for option in run.params for name in option.opts if name.startswith("--")}

    assert options == {"--config", "--replace", *FLAGS.values()}


async def test_failure_of_a_background_task_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        raise ValueError("a defect")

    task = asyncio.create_task(work(), name="reload")
    task.add_done_callback(log_failed_task)
    await asyncio.wait({task})
    await asyncio.sleep(0)
    (record,) = caplog.records
    assert (record.message, vars(record)["fields"]) == (
        "background task failed",
        {"task": "reload"},
    )


@pytest.mark.parametrize(
    ("flag", "value", "reason"),
    [
        ("--coordinator-url", "http://h", "coordinator.url: expected an address"),
        ("--coordinator-url", "ws://far.example", "coordinator.url: ws:// would send prompts"),
        ("--key-path", "", "identity.key_path: expected the path of a file"),
        ("--max-concurrent", "0", "limits.max_concurrent: expected a whole number >= 1"),
        ("--drain-timeout", "-1", "limits.drain_timeout_s: expected"),
        ("--prometheus-addr", "9090", "observability.prometheus_addr: expected host:port"),
        ("--log-level", "loud", "observability.log_level: expected one of: debug, "),
        ("--log-format", "xml", "observability.log_format: expected one of: text, json"),
    ],
)
def test_invalid_option_prints_one_line_that_starts_with_the_option(
    flag: str, value: str, reason: str, runner: CliRunner
) -> None:
    result = invoke(runner, "run", flag, value, config=COORDINATOR)

    assert result.exit_code == 2
    assert result.output.startswith(f"Error: flag {flag}: {reason}")
    assert result.output.count("\n") == 1


def test_key_creation_failure_prints_one_line_and_exits_with_2(runner: CliRunner) -> None:
    result = invoke(runner, "run", "--key-path", "agent.toml/key", config=COORDINATOR + ECHO)

    assert result.exit_code == 2
    assert result.output.startswith("Error: agent.toml/key: ")
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("log_format", "logged"), [("json", '"config":null'), ("text", " config=none ")]
)
def test_start_without_a_configuration_file_is_logged(
    log_format: str, logged: str, runner: CliRunner
) -> None:
    # In an earlier version, the path, which is `None` here, was logged as the string "None".
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"  # in use, so the command ends at once
        flags = ("--coordinator-url", "ws://127.0.0.1:1/?a-secret", "--prometheus-addr", address)
        result = runner.invoke(main, ["run", "--log-format", log_format, *flags])

    (starting,) = [line for line in result.output.splitlines() if "starting" in line]
    assert logged in starting
    assert "ws://127.0.0.1:1/?[set]" in starting
    assert "a-secret" not in result.output
    assert result.exit_code == 2
    assert "another provider-agent may be running" in result.output


def test_run_without_a_backend_prints_a_warning(runner: CliRunner) -> None:
    # The key cannot be created, so the command ends without connecting.
    result = invoke(runner, "run", "--key-path", "agent.toml/key", config=COORDINATOR)

    warning, _ = result.output.splitlines()
    assert "no backend is configured; add a [[backends]] table" in warning


def test_garbage_is_collected_while_the_agent_serves(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    enabled: list[bool] = []

    async def serve(_service: Service) -> int:
        enabled.append(gc.isenabled())
        return 0

    monkeypatch.setattr(Service, "run", serve)
    invoke(runner, "run", config=COORDINATOR + ECHO)
    gc.unfreeze()

    assert enabled == [True]


def test_failed_start_leaves_the_garbage_collector_enabled(runner: CliRunner) -> None:
    invoke(runner, "run", "--max-concurrent", "0", config=COORDINATOR)

    assert gc.isenabled()


def test_no_option_accepts_a_secret() -> None:
    """Other users of the machine can read command lines with `ps`."""
    names = [
        name for option in run.params if isinstance(option, click.Option) for name in option.opts
    ]

    assert [name for name in names if any(word in name for word in ("code", "token", "api"))] == []


@pytest.mark.parametrize("is_default", [False, True])
def test_new_key_at_a_configured_path_is_a_warning(
    is_default: bool, runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistyped key_path silently made the agent a new identity."""

    async def serve_nothing(_service: Service) -> int:
        return 0

    monkeypatch.setattr(Service, "run", serve_nothing)
    config = COORDINATOR + ("" if is_default else '[identity]\nkey_path = "identiy.key"\n') + ECHO

    result = invoke(runner, "run", config=config)
    second = invoke(runner, "run", config=config)

    assert (result.exit_code, second.exit_code) == (0, 0)
    lines = [line for line in result.output.splitlines() if "identity created" in line]
    assert len(lines) == 1
    assert ("WARNING" in lines[0]) is not is_default
    assert "public_key=" in lines[0]
    if not is_default:
        assert str(Path("identiy.key").absolute()) in lines[0]
        assert "correct [identity] key_path" in lines[0]
    assert "identity created" not in second.output


def test_check_creates_no_key(runner: CliRunner) -> None:
    config = COORDINATOR + '[identity]\nkey_path = "identiy.key"\n' + ECHO

    result = invoke(runner, "check", "--no-completions", config=config)

    assert "the file does not exist" in result.output
    assert not Path("identiy.key").exists()


def test_agent_runs_without_traces_if_they_cannot_be_exported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    assert wanted_traces() is None
    (record,) = caplog.records
    assert (record.message, vars(record)["fields"]["what_to_do"]) == (
        "traces off",
        "set it to otlp, or to none",
    )


def test_traces_are_off_without_a_variable(caplog: pytest.LogCaptureFixture) -> None:
    assert wanted_traces() is None
    assert caplog.records == []
