"""How this installation was made, and the command that upgrades it."""

import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from provider_agent.agent.version import DISTRIBUTION

IMAGE_PREFIX: Final = Path("/opt/provider-agent")
"""The virtual environment in the image, which has no pip."""


class Installation(NamedTuple):
    """What is known about an installation.

    Attributes:
        prefix: the virtual environment.
        python: the interpreter.
        installer: the program that installed it, such as `pip` or `uv`; "" if unknown.
        source: the URL that it was installed from, instead of from a package index; "" otherwise.
        has_pip: whether the environment has pip.
    """

    prefix: Path
    python: str
    installer: str = ""
    source: str = ""
    has_pip: bool = True


class _DirectUrl(msgspec.Struct):
    """`direct_url.json` (PEP 610), which an installation from an index does not have."""

    url: str = ""


def this_installation() -> Installation:
    """Return the installation that runs."""
    installer = source = ""
    try:
        installed = distribution(DISTRIBUTION)
        installer = (installed.read_text("INSTALLER") or "").strip()
        origin = installed.read_text("direct_url.json")
        source = msgspec.json.decode(origin, type=_DirectUrl).url if origin else ""
    except (PackageNotFoundError, msgspec.MsgspecError):
        pass
    return Installation(
        Path(sys.prefix),
        sys.executable,
        installer,
        source,
        find_spec("pip") is not None,
    )


def upgrade_command(installation: Installation) -> str:
    """Return what an operator does to upgrade the installation: a command, or an instruction."""
    prefix, python = installation.prefix, installation.python
    if "pipx" in prefix.parts:
        return f"pipx upgrade {DISTRIBUTION}"
    if prefix.parts[-3:-1] == ("uv", "tools"):
        return f"uv tool upgrade {DISTRIBUTION}"
    if prefix == IMAGE_PREFIX and not installation.has_pip:
        return "build or pull the image of the new version, and replace this container"
    if installation.source.startswith("file:"):
        folder = installation.source.removeprefix("file://")
        return f"git -C {folder} pull && {python} -m pip install {folder}"
    if installation.source:
        return f"{python} -m pip install --upgrade {installation.source}"
    if installation.installer == "uv" or not installation.has_pip:
        return f"uv pip install --python {python} --upgrade {DISTRIBUTION}"
    return f"{python} -m pip install --upgrade {DISTRIBUTION}"
