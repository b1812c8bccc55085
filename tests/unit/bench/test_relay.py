"""The command line of the benchmark."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_without_a_compiler_it_says_so_and_uses_the_load_generator_in_python() -> None:
    command = [sys.executable, "-m", "bench.relay", "--only", "no such load"]
    env = {**os.environ, "PATH": "/nonexistent"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert "a C compiler (cc or gcc) on PATH" in done.stderr
    assert "agent/obvious" in done.stdout
