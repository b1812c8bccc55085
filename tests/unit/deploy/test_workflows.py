"""The workflows: the published schema, a security linter, and the rules of this project."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}")

PRIVILEGES = {
    "ci.yml": {},
    "image.yml": {"image": {"contents: read", "packages: write"}},
    "release.yml": {
        "build": {"contents: read", "id-token: write", "attestations: write"},
        "wheels": {"contents: read", "id-token: write", "attestations: write"},
        "pypi": {"id-token: write"},
        "release": {"contents: write"},
    },
}


def run(tool: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).with_name(tool)), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def validate(*paths: Path) -> "subprocess.CompletedProcess[str]":
    return run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *paths)


def audit(*paths: Path) -> "subprocess.CompletedProcess[str]":
    return run("zizmor", "--offline", "--no-progress", *paths)


def load(path: Path) -> dict[Any, Any]:
    workflow: dict[Any, Any] = yaml.safe_load(path.read_text("utf-8"))
    return workflow


def test_workflows_satisfy_the_published_schema(tmp_path: Path) -> None:
    ran = validate(*WORKFLOWS)
    assert ran.returncode == 0, ran.stdout + ran.stderr

    wrong = tmp_path / "wrong.yml"
    wrong.write_text("on: push\njobs:\n  one:\n    runs_on: x\n", "utf-8")
    assert validate(wrong).returncode == 1


def test_the_updates_of_actions_satisfy_the_published_schema() -> None:
    file = ROOT / ".github" / "dependabot.yml"
    ran = run("check-jsonschema", "--builtin-schema", "vendor.dependabot", file)

    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_workflows_pass_the_security_linter(tmp_path: Path) -> None:
    ran = audit(*WORKFLOWS)
    assert ran.returncode == 0, ran.stdout + ran.stderr

    wrong = tmp_path / ".github" / "workflows" / "wrong.yml"
    wrong.parent.mkdir(parents=True)
    step = "      - run: echo ${{ github.event.pull_request.title }}\n"
    head = "on: pull_request_target\njobs:\n  one:\n    runs-on: ubuntu-latest\n    steps:\n"
    wrong.write_text(head + step, "utf-8")
    assert audit(wrong).returncode != 0


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_and_jobs_have_the_fewest_privileges(path: Path) -> None:
    workflow = load(path)
    granted = {
        name: {f"{scope}: {access}" for scope, access in job["permissions"].items()}
        for name, job in workflow["jobs"].items()
        if "permissions" in job
    }

    assert workflow["permissions"] == {"contents": "read"}
    assert granted == PRIVILEGES[path.name]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_with_their_version_in_a_comment(path: Path) -> None:
    lines = re.findall(r"(?m)^ *(?:- )?uses: (.*)$", path.read_text("utf-8"))

    assert lines
    for line in lines:
        action, _, comment = line.partition(" # ")
        assert PINNED.fullmatch(action), line
        assert re.fullmatch(r"v\d+\.\d+\.\d+", comment), line


def test_equal_actions_have_equal_pins() -> None:
    uses = {
        use for path in WORKFLOWS for use in re.findall(r"uses: (\S+@\S+)", path.read_text("utf-8"))
    }

    assert len(uses) == len({use.partition("@")[0] for use in uses})


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_workflow_names_a_registry(path: Path) -> None:
    assert re.findall(r"(?i)\b[\w.-]+\.(?:io|com|org)/", path.read_text("utf-8")) == []


def test_ci_covers_the_supported_versions_of_python() -> None:
    versions = load(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")

    assert versions["python"] == re.findall(r"Python :: (3\.\d+)", pyproject)


def test_the_image_is_built_for_two_architectures_with_sbom_and_provenance() -> None:
    steps = load(ROOT / ".github" / "workflows" / "image.yml")["jobs"]["image"]["steps"]
    (build,) = [step["with"] for step in steps if "build-push-action" in step.get("uses", "")]

    assert build["platforms"] == "linux/amd64,linux/arm64"
    assert build["sbom"] is True
    assert build["provenance"] == "mode=max"


def test_publishing_uses_no_password() -> None:
    publish = load(ROOT / ".github" / "workflows" / "release.yml")["jobs"]["pypi"]

    assert publish["environment"] == "pypi"
    assert publish["steps"][-1]["with"] == {"attestations": True}


def test_a_release_publishes_compiled_wheels_for_the_supported_versions_of_python() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    versions = re.findall(r"Python :: (3\.\d+)", " ".join(pyproject["project"]["classifiers"]))
    jobs = load(ROOT / ".github" / "workflows" / "release.yml")["jobs"]

    built = pyproject["tool"]["cibuildwheel"]["build"]
    assert built == [f"cp{version.replace('.', '')}-*" for version in versions]
    assert set(jobs["pypi"]["needs"]) == {"build", "wheels"}


def test_scripts_of_workflows_exist() -> None:
    texts = "".join(path.read_text("utf-8") for path in WORKFLOWS)
    scripts = set(re.findall(r"(?:python3?|bash) (\.\S+)", texts))

    assert scripts == {".ci/run", ".ci/check_release.py"}
    assert all((ROOT / script).is_file() for script in scripts)
