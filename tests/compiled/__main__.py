"""`python -m tests.compiled [pytest's arguments]`: run the tests that concern compiled modules.

`make test-compiled` runs it in the environment with the compiled wheel. The exit code is that of
pytest, or 1 if a module of the list in `pyproject.toml` is not compiled in this environment.
"""

import sys
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

_ROOT: Final = Path(__file__).parents[2]
_TESTS: Final = (
    "tests/unit/protocol",
    "tests/unit/websocket",
    "tests/unit/adapters/http",
    "tests/unit/adapters/responses",
    "tests/unit/agent/jobs",
    "tests/unit/agent/link",
    "tests/conformance",
    "tests/faults",
    "tests/integration/test_end_to_end.py",
    "tests/integration/test_failover.py",
    "tests/integration/test_hostile_jobs.py",
    "tests/integration/test_official_clients.py",
    "tests/integration/test_usepod_end_to_end.py",
    "tests/integration/test_usepod_promises.py",
)


def modules() -> list[str]:
    """Return the modules that the wheel of a release compiles."""
    pyproject = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))
    hook = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    return list(hook["modules"])


def is_compiled(module: str) -> bool:
    """Whether an import of `module` loads an extension module."""
    spec = find_spec(module)
    return bool(spec and spec.origin and spec.origin.endswith(tuple(EXTENSION_SUFFIXES)))


if __name__ == "__main__":
    if pure := [module for module in modules() if not is_compiled(module)]:
        sys.exit(f"not compiled in this environment: {', '.join(pure)}; see make test-compiled")
    sys.exit(pytest.main([*_TESTS, *sys.argv[1:]]))
