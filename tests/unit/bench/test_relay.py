"""The command line of the benchmark."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from bench.relay import choose_dialects, choose_relays, parse_options

ROOT = Path(__file__).parents[3]


def test_without_a_compiler_it_says_so_and_uses_the_load_generator_in_python() -> None:
    command = [sys.executable, "-m", "bench.relay", "--only", "no such load"]
    env = {**os.environ, "PATH": "/nonexistent"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert "a C compiler (cc or gcc) on PATH" in done.stderr
    assert "agent/obvious" in done.stdout


@pytest.mark.parametrize("option", [["--quick"], ["--only", "256"]])
def test_a_part_of_the_loads_does_not_replace_the_documented_results(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_options(["--write-docs", *option])
    assert "--write-docs needs all loads" in capsys.readouterr().err


def test_the_rust_agent_is_compared_with_both_dialects() -> None:
    chosen = choose_dialects(parse_options(["--usepod", "--rust-command", "rust {coordinator}"]))
    assert [one.name for one in chosen if one.name != "nginx"] == [
        "agent",
        "agent, usepod",
        "rust agent",
    ]


def test_the_compiled_agent_is_compared_too(tmp_path: Path) -> None:
    compiled = tmp_path / "python"
    compiled.write_text("#!/bin/sh\nexit 0\n")  # as the check of `is_compiled` exits
    compiled.chmod(0o755)
    of_dialects = choose_dialects(parse_options(["--usepod", "--compiled", str(compiled)]))
    of_relays = choose_relays(parse_options(["--compiled", str(compiled)]))
    names = ["agent, compiled", "agent, usepod, compiled"]
    assert [one.name for one in of_dialects if one.python == str(compiled)] == names
    assert [one.name for one in of_relays if one.python == str(compiled)] == names[:1]


def test_an_interpreter_without_the_compiled_agent_is_an_error() -> None:
    with pytest.raises(SystemExit, match="has no compiled provider_agent"):
        choose_relays(parse_options(["--compiled", sys.executable]))


def test_each_given_interpreter_is_one_more_relay() -> None:
    chosen = choose_relays(parse_options(["--pythons", sys.executable]))
    assert chosen[-1].name == f"agent, Python {platform.python_version()}"
    assert chosen[-1].python == sys.executable


def test_an_interpreter_without_the_agent_is_an_error(tmp_path: Path) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\nexit 1\n")
    interpreter.chmod(0o755)
    with pytest.raises(SystemExit, match="python cannot import provider_agent"):
        choose_relays(parse_options(["--pythons", str(interpreter)]))
