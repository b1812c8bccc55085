import base64
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from provider_agent.coordinator.command import FieldsFormatter, command


def test_open_coordinator_on_a_public_address_exits_with_2() -> None:
    result = CliRunner().invoke(command, ["--host", "0.0.0.0"])
    assert result.exit_code == 2
    assert result.output.startswith("coordinator: host 0.0.0.0 can be reached")
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("option", ["--api-keys", "--enrollment-codes", "--agent-keys"])
def test_unreadable_file_exits_with_2(option: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [option, str(tmp_path / "missing")])
    assert result.exit_code == 2
    assert "missing: cannot be read" in result.output


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--drain-timeout", "-1"], "'--drain-timeout': -1.0 is not in the range"),
        (["--max-connections", "0"], "'--max-connections': 0 is not in the range"),
        (["--max-request-memory", "1"], "'--max-request-memory': 1 is not in the range"),
        (["--trusted-proxy", "proxy"], "trusted proxy 'proxy': expected an IP address"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_invalid_option_value_exits_with_2(arguments: list[str], error: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert error in result.output


@pytest.mark.parametrize(
    ("arguments", "variable"), [(["--dialect", "usepod"], ""), ([], " usepod,usepod")]
)
def test_a_dialect_in_a_cluster_exits_with_2(arguments: list[str], variable: str) -> None:
    cluster = ["--cluster", "nats://localhost:4222"]
    environ = {"COORDINATOR_DIALECT": variable} if variable else {}
    result = CliRunner().invoke(command, [*arguments, *cluster], env=environ)
    assert result.exit_code == 2
    assert result.output.startswith("coordinator: --dialect usepod does not work with --cluster")
    assert result.output.count("\n") == 1


def test_an_unknown_dialect_in_the_environment_exits_with_2() -> None:
    result = CliRunner().invoke(command, env={"COORDINATOR_DIALECT": "usepods"})
    assert result.exit_code == 2
    assert "COORDINATOR_DIALECT: contains an unknown dialect; known: usepod" in result.output


def test_empty_environment_variable_exits_with_2() -> None:
    result = CliRunner().invoke(command, env={"COORDINATOR_API_KEYS": ""})
    assert result.exit_code == 2
    assert "COORDINATOR_API_KEYS: contains no entry" in result.output


def test_unknown_value_of_a_log_field_is_written_as_none() -> None:
    record = logging.makeLogRecord({"msg": "job ended", "fields": {"code": "ok", "tokens": None}})
    assert FieldsFormatter("%(message)s").format(record) == "job ended code='ok' tokens=none"


def test_lines_begin_with_the_time_of_their_record() -> None:
    formatter, usual = FieldsFormatter("%(asctime)s"), logging.Formatter("%(asctime)s")
    for created in (0.0, 1.0009, 1.5, 1_700_000_000.25, 1.75):
        record = logging.makeLogRecord({"created": created, "msecs": created % 1 * 1000 // 1})
        assert formatter.format(record) == usual.format(record)


def test_module_runs_until_sigterm_and_prints_no_secret(tmp_path: Path) -> None:
    keys, agents = tmp_path / "keys", tmp_path / "agents"
    keys.write_text("hunter2\n", "utf-8")
    agents.write_text(base64.b64encode(bytes(32)).decode(), "utf-8")
    arguments = ["--port", "0", "--api-keys", str(keys), "--agent-keys", str(agents)]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "provider_agent.coordinator",
            *arguments,
            "--authority",
            "c.example:443",
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    lines: list[str] = []
    while not lines or "agents may dial" not in lines[-1]:
        lines.append(process.stderr.readline())
        assert lines[-1], lines
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=30)
    assert process.returncode == 0
    output = "".join(lines) + rest
    assert "API key required" in output
    assert "enrolled agents only" in output
    assert "c.example:443" in output
    assert "hunter2" not in output
    assert "Traceback" not in output
