from pathlib import Path

import pytest

from tests.unit.agent.cli.service.machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def desktop(tmp_path: Path) -> Machine:
    """The machine of the user ada, who is not root."""
    return Machine(tmp_path, uid=1000)
