"""The version of the installed distribution, and whether its hot modules are compiled."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Final

DISTRIBUTION: Final = "provider-agent"


@cache
def agent_version() -> str:
    """The installed version; "0+unknown" when the package runs without being installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0+unknown"


@cache
def is_compiled() -> bool:
    """Whether the hot modules are compiled; see docs/performance.md."""
    return find_spec("provider_agent.hot__mypyc") is not None  # the name is from hatch_build.py
