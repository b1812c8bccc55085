"""Build hook of hatchling: compiles the hot modules of a wheel with mypyc (docs/adr/0024).

It runs only if `HATCH_BUILD_HOOKS_ENABLE=1` is set; without it, the wheel is pure Python. An
editable installation is always pure, because it uses the sources as they are edited.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# One library has the code of all modules, so that they call each other directly.
# `agent/version.py` looks for its name.
SETUP = """
import sys
from mypyc.build import mypycify
from setuptools import setup
options = ["--config-file=", "--explicit-package-bases", "--follow-imports=silent"]
modules = mypycify([*options, *sys.argv[1:]], group_name="provider_agent.hot", debug_level="0")
setup(name="provider-agent", ext_modules=modules, script_args=["build_ext", "--inplace"])
"""
PURE = "Without HATCH_BUILD_HOOKS_ENABLE, the build is pure Python."


class CompileHotModules(BuildHookInterface[BuilderConfig]):
    """Adds an extension module beside each module that `pyproject.toml` lists in `modules`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile a copy of the package that has the wheel's layout.

        The sources have this layout only through symbolic links, which an sdist does not have.
        No extension module may stay in the working tree: Python would prefer it to its source.

        Raises:
            SystemExit: mypyc, setuptools or a C compiler is missing, or mypyc failed.
        """
        if version == "editable":
            return
        check_tools()
        self._copy = TemporaryDirectory()  # the wheel is made of its files after this method
        folder = Path(self._copy.name)
        for file in self.build_config.builder.recurse_included_files():
            copied = folder / file.distribution_path
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.path, copied)
        compile_modules(folder, self.config["modules"])
        for extension in (folder / "provider_agent").rglob("*.so"):
            build_data["force_include"][str(extension)] = str(extension.relative_to(folder))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the copy."""
        if version != "editable":
            self._copy.cleanup()


def check_tools() -> None:
    """Check that mypyc, setuptools and a C compiler are installed.

    Raises:
        SystemExit: one of them is missing.
    """
    missing = [name for name in ("mypyc", "setuptools") if find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        sys.exit(f"Compiling needs {names}: install requirements/compile.txt. {PURE}")
    # As setuptools chooses it.
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        sys.exit(
            f"Compiling needs a C compiler, and '{compiler}' is not installed"
            f" (on Debian: apt-get install gcc python3-dev). {PURE}"
        )


def compile_modules(folder: Path, modules: list[str]) -> None:
    """Compile modules of the package in `folder`; the extension modules are beside their sources.

    Raises:
        SystemExit: mypyc failed; the message is its output.
    """
    paths = [f"{module.replace('.', '/')}.py" for module in modules]
    ran = subprocess.run(
        [sys.executable, "-c", SETUP, *paths],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if ran.returncode:
        sys.exit(f"mypyc failed:\n{ran.stdout}")
