"""The build hook that compiles a wheel; `make test-compiled` tests the wheel itself."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
HOOK = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]

needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")


def test_the_compile_group_equals_the_dependencies_of_the_build_hook() -> None:
    assert PYPROJECT["dependency-groups"]["compile"] == HOOK["dependencies"]


def test_the_compiled_modules_exist() -> None:
    sources = [f"src/{module.replace('.', '/')}.py" for module in HOOK["modules"]]

    assert sources
    assert [source for source in sources if not (ROOT / source).is_file()] == []


def test_an_editable_installation_is_not_compiled(tmp_path: Path) -> None:
    code = "from hatchling.build import build_editable as build; import sys; build(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "HATCH_BUILD_HOOKS_ENABLE": "1"},
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")

    assert wheel.name.endswith("-none-any.whl")
    assert [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")] == []


SMALL_PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "provider-agent"
version = "1"
[tool.hatch.build.targets.wheel.hooks.custom]
modules = ["provider_agent.one", "provider_agent.folder.two"]
"""


def compile_small(folder: Path, one: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Build a project of two modules with our build hook, into `folder`/dist."""
    package = folder / "provider_agent"
    (package / "folder").mkdir(parents=True)
    for path in (package, package / "folder"):
        (path / "__init__.py").touch()
    (package / "one.py").write_text(one, "utf-8")
    (package / "folder" / "two.py").write_text("TWO: int = 2\n", "utf-8")
    (folder / "pyproject.toml").write_text(SMALL_PROJECT, "utf-8")
    (folder / "hatch_build.py").write_text((ROOT / "hatch_build.py").read_text("utf-8"), "utf-8")
    return subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel"],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )


@needs_compiler
def test_a_compiled_wheel_has_extension_modules_and_leaves_none_in_the_sources(
    tmp_path: Path,
) -> None:
    code = "from provider_agent.folder.two import TWO\ndef two() -> int:\n    return TWO\n"
    ran = compile_small(tmp_path, code)
    assert ran.returncode == 0, ran.stderr
    assert list(tmp_path.rglob("*.so")) == []  # Python would prefer it to an edited source
    (wheel,) = (tmp_path / "dist").iterdir()
    assert "-none-any" not in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")

    use = "from provider_agent import one; print(one.two(), one.__file__)"
    used = subprocess.run(
        [sys.executable, "-c", use],
        cwd=tmp_path / "installed",
        check=True,
        capture_output=True,
        text=True,
    )
    assert used.stdout.startswith("2 ")
    assert used.stdout.strip().endswith(tuple(EXTENSION_SUFFIXES))


def test_a_compiled_build_without_a_c_compiler_says_what_to_install(tmp_path: Path) -> None:
    ran = compile_small(tmp_path, "", CC="absent-compiler -O2")

    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "'absent-compiler' is not installed" in ran.stderr
    assert "apt-get install gcc" in ran.stderr


@needs_compiler
def test_a_compiled_build_shows_the_errors_of_mypyc_and_ignores_settings_of_the_user(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".mypy.ini").write_text("[mypy]\nplugins = absent_plugin\n", "utf-8")
    code = "def one() -> int:\n    return 'one'\n"
    ran = compile_small(tmp_path, code, HOME=str(home), XDG_CONFIG_HOME=str(home))

    assert ran.returncode == 1
    assert "mypyc failed:" in ran.stderr
    assert "one.py:2: error: Incompatible return value type" in ran.stderr
    assert "absent_plugin" not in ran.stderr
