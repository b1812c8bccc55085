import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """Restores logging after a test: commands add a handler whose stream `CliRunner` closes."""
    root, project = logging.getLogger(), logging.getLogger("provider_agent")
    before = (root.handlers[:], root.level, project.level)
    yield
    root.handlers[:], root.level = before[0], before[1]
    project.setLevel(before[2])
    logging.captureWarnings(False)


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Runs commands in an empty home directory, without the user's file and variables."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("PROVIDER_AGENT_"):
            monkeypatch.delenv(name)
    return CliRunner(
        env={
            "HOME": str(tmp_path),
            "XDG_CONFIG_HOME": "",
            "PROVIDER_AGENT_CONFIG": "",
            "PROVIDER_AGENT_BACKENDS": "",
            "PROVIDER_AGENT_OBSERVABILITY_PROMETHEUS_ADDR": "off",
        }
    )
