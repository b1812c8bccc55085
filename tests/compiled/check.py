"""`python tests/compiled/check.py`: exit with 1 unless every module of the list is compiled here.

It needs only the installed package. The list is that of the build hook, in `pyproject.toml`.
"""

import sys
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

from provider_agent.agent.version import is_compiled


def compiled_modules() -> list[str]:
    """Return the modules that a compiled wheel must contain as extension modules."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    wheel = tomllib.loads(text)["tool"]["hatch"]["build"]["targets"]["wheel"]
    return list(wheel["hooks"]["custom"]["modules"])


def is_extension(module: str) -> bool:
    """Whether an import of `module` loads an extension module."""
    spec = find_spec(module)
    return bool(spec and spec.origin and spec.origin.endswith(tuple(EXTENSION_SUFFIXES)))


def check() -> None:
    """Check the environment that runs this.

    Raises:
        SystemExit: a module is not compiled.
    """
    modules = compiled_modules()
    if pure := [module for module in modules if not is_extension(module)]:
        sys.exit(f"not compiled in {sys.prefix}: {', '.join(pure)}")
    if not is_compiled():
        sys.exit("`provider-agent version` does not say that the modules are compiled")
    sys.stdout.write(f"{len(modules)} modules are compiled\n")


if __name__ == "__main__":
    check()
