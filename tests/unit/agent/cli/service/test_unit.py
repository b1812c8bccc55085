"""The units, verified by systemd-analyze(1) where it is installed."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from provider_agent.agent.cli.service.unit import UnitSettings, system_unit, user_unit

ROOT = Path(__file__).parents[5]
MAX_EXPOSURE = 2.0
"""`systemd-analyze security` calls an exposure below 2 "OK"; an unprotected service has 9.6."""


def analyze(runtime: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian package systemd)")
    environ = {**os.environ, "SYSTEMD_COLORS": "0", "XDG_RUNTIME_DIR": str(runtime)}
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        capture_output=True,
        text=True,
        env=environ,
        check=False,
    )


@pytest.fixture
def settings(tmp_path: Path) -> UnitSettings:
    """Settings whose command exists, because systemd-analyze looks for it."""
    return UnitSettings(
        command=Path(sys.executable),
        credentials=(("token", Path("/etc/provider-agent/token")),),
    )


def test_the_unit_in_deploy_is_the_default_unit() -> None:
    """Write it anew: `print(system_unit(UnitSettings()), end="")`."""
    text = (ROOT / "deploy/provider-agent.service").read_text("utf-8")

    assert text == system_unit(UnitSettings())


@pytest.mark.parametrize(("unit", "scope"), [(system_unit, "--system"), (user_unit, "--user")])
def test_systemd_finds_nothing_wrong_with_the_unit(
    unit: Callable[[UnitSettings], str], scope: str, settings: UnitSettings, tmp_path: Path
) -> None:
    file = tmp_path / "provider-agent.service"
    file.write_text(unit(settings), "utf-8")

    verified = analyze(tmp_path, "verify", "--man=no", scope, str(file))

    about_it = [line for line in verified.stderr.splitlines() if "provider-agent" in line]
    assert (verified.returncode, about_it) == (0, [])


def test_systemd_rates_the_system_unit_as_well_protected(
    settings: UnitSettings, tmp_path: Path
) -> None:
    file = tmp_path / "provider-agent.service"
    file.write_text(system_unit(settings), "utf-8")

    rated = analyze(tmp_path, "security", "--offline=yes", str(file))

    assert rated.returncode == 0, rated.stderr
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", rated.stdout)
    assert found
    assert float(found[1]) < MAX_EXPOSURE
