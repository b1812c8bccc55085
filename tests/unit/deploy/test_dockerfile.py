"""The Dockerfile passes a linter. tests/integration/test_image.py runs its steps."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
HADOLINT = Path(sys.executable).with_name("hadolint")


def lint(dockerfile: Path) -> "subprocess.CompletedProcess[str]":
    command = [str(HADOLINT), "--no-color", "--failure-threshold", "info", str(dockerfile)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_dockerfile_passes_hadolint() -> None:
    ran = lint(ROOT / "Dockerfile")

    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


def test_the_linter_finds_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN cd /tmp && ls\n", "utf-8")

    ran = lint(tmp_path / "Dockerfile")

    assert ran.returncode == 1
    assert "DL3006" in ran.stdout
