"""`.ci/check_release.py`, which the workflows of image and release run."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / ".ci" / "check_release.py"

FILES = {
    "pyproject.toml": '[project]\nname = "x"\nversion = "1.2.3"\n',
    "deploy/helm/provider-agent/Chart.yaml": 'version: 1.2.3\nappVersion: "1.2.3"\n',
    "deploy/helm/coordinator/Chart.yaml": 'version: 1.2.3\nappVersion: "1.2.3"\n',
    "CHANGELOG.md": (
        "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-11-30\n\n### Fixed\n\n- A bug.\n\n"
        "## [1.2.2] - 2026-11-01\n\n- Old.\n"
    ),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree that is ready for v1.2.3, with a copy of the script."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / SCRIPT.name).write_bytes(SCRIPT.read_bytes())
    return tmp_path


def check(tree: Path, *tags: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-I", str(tree / ".ci" / SCRIPT.name), *tags]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_complete_release_prints_its_section_of_the_changelog(tree: Path) -> None:
    ran = check(tree, "v1.2.3")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == "### Fixed\n\n- A bug.\n"


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("pyproject.toml", "1.2.3", "1.2.4", "the tag is v1.2.3, but pyproject.toml has"),
        ("deploy/helm/provider-agent/Chart.yaml", "version: 1.2.3", "version: 1", "version is 1,"),
        ("deploy/helm/provider-agent/Chart.yaml", '"1.2.3"', '"2"', "appVersion is 2,"),
        ("deploy/helm/provider-agent/Chart.yaml", "appVersion", "app", "no appVersion"),
        ("deploy/helm/coordinator/Chart.yaml", "version: 1.2.3", "version: 1", "version is 1,"),
        ("CHANGELOG.md", "[1.2.3]", "[1.2.30]", "no section ## [1.2.3] - YYYY-MM-DD"),
        ("CHANGELOG.md", " - 2026-11-30", "", "the section of 1.2.3 has no date"),
        ("CHANGELOG.md", "### Fixed\n\n- A bug.\n\n", "", "the section of 1.2.3 is empty"),
    ],
)
def test_an_incomplete_release_is_refused(
    tree: Path, name: str, old: str, new: str, message: str
) -> None:
    text = (tree / name).read_text("utf-8")
    assert old in text
    (tree / name).write_text(text.replace(old, new), "utf-8")

    ran = check(tree, "v1.2.3")

    assert (ran.returncode, ran.stdout) == (1, "")
    assert message in ran.stderr


def test_every_mistake_is_reported_at_once(tree: Path) -> None:
    (tree / "CHANGELOG.md").write_text("# Changelog\n", "utf-8")

    assert check(tree, "1.2.3").stderr.count("\n") == 2


def test_the_tag_must_be_given(tree: Path) -> None:
    assert check(tree).returncode == 2


def test_the_script_understands_the_files_of_this_project() -> None:
    ran = check(SCRIPT.parents[1], "v0.0.0")

    assert ran.returncode == 1
    assert "the tag is v0.0.0, but pyproject.toml has the version" in ran.stderr
    assert "Chart.yaml" not in ran.stderr
