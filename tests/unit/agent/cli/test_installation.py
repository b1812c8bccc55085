from pathlib import Path

import pytest

from provider_agent.agent.cli.installation import (
    IMAGE_PREFIX,
    Installation,
    this_installation,
    upgrade_command,
)

VENV = Path("/srv/venv")
PYTHON = "/srv/venv/bin/python"


@pytest.mark.parametrize(
    ("installation", "command"),
    [
        (Installation(VENV, PYTHON, "pip"), f"{PYTHON} -m pip install --upgrade provider-agent"),
        (
            Installation(Path("/home/a/.local/share/pipx/venvs/provider-agent"), PYTHON, "pip"),
            "pipx upgrade provider-agent",
        ),
        (
            Installation(
                Path("/home/a/.local/share/uv/tools/provider-agent"), PYTHON, "uv", has_pip=False
            ),
            "uv tool upgrade provider-agent",
        ),
        (
            Installation(VENV, PYTHON, "uv", has_pip=False),
            f"uv pip install --python {PYTHON} --upgrade provider-agent",
        ),
        (
            Installation(VENV, PYTHON, "pip", "file:///src/agent"),
            f"git -C /src/agent pull && {PYTHON} -m pip install /src/agent",
        ),
        (
            Installation(VENV, PYTHON, "pip", "git+https://git.example/a"),
            f"{PYTHON} -m pip install --upgrade git+https://git.example/a",
        ),
        (
            Installation(IMAGE_PREFIX, PYTHON, "pip", "file:///dist/x.whl", has_pip=False),
            "build or pull the image of the new version, and replace this container",
        ),
    ],
)
def test_command_fits_how_the_installation_was_made(
    installation: Installation, command: str
) -> None:
    assert upgrade_command(installation) == command


def test_this_installation_is_described() -> None:
    found = this_installation()
    assert (found.prefix / "bin").is_dir()
    assert Path(found.python).exists()
