"""Windows is not supported; code, classifier and documents agree (ADR 20)."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]

AS_ON_WINDOWS = """
import signal, sys
sys.modules["fcntl"] = sys.modules["resource"] = sys.modules["uvloop"] = None
del signal.SIGHUP
from provider_agent.agent.cli import main
main._PLATFORM = "win32"
main.main(sys.argv[1:])
"""
"""Without what Windows lacks. `sys.platform` itself must stay: libraries would call Windows."""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", AS_ON_WINDOWS, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("command", ["run", "check", "coordinator", "service", "runn"])
def test_command_exits_with_one_message_that_names_what_works(command: str) -> None:
    result = run(command)

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: provider-agent does not run on Windows itself")
    assert "WSL 2" in result.stderr
    assert "container" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_work(option: str) -> None:
    result = run(option)

    assert (result.returncode, result.stderr) == (0, "")


def test_classifier_and_documents_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    systems = [one for one in project["classifiers"] if one.startswith("Operating System")]
    operations = (ROOT / "docs" / "operations.md").read_text("utf-8")

    assert systems == ["Operating System :: POSIX"]
    assert "\n## Windows\n" in operations
    assert "docs/operations.md#windows" in (ROOT / "README.md").read_text("utf-8")
