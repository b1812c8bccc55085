"""The version of the installed distribution."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final

DISTRIBUTION: Final = "provider-agent"


@cache
def agent_version() -> str:
    """The installed version; "0+unknown" when the package runs without being installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0+unknown"
