"""Compare a release's tag with the versions and the changelog; print the changelog's section.

`python .ci/check_release.py v1.2.3` exits with 1 and one line per mistake unless `pyproject.toml`,
the Helm charts and `CHANGELOG.md` belong to this version. It needs only Python.
"""

import itertools
import re
import sys
import tomllib
from pathlib import Path

CHARTS = ("deploy/helm/provider-agent/Chart.yaml", "deploy/helm/coordinator/Chart.yaml")


def section(changelog: str, version: str) -> tuple[str, str] | None:
    """Return the date and the text of a version's section; None without such a section."""
    heading = rf"(?m)^## \[{re.escape(version)}\](?: - (\S+))?[ ]*$"
    if (found := re.search(heading, changelog)) is None:
        return None
    text = re.split(r"(?m)^## ", changelog[found.end() :], maxsplit=1)[0]
    return found[1] or "", text.strip()


def mistakes(root: Path, tag: str) -> list[str]:
    """Return why the tree at `root` is not ready for the release `tag`."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = project["version"]
    found = []
    if tag != f"v{version}":
        found.append(f"the tag is {tag}, but pyproject.toml has the version {version}")
    for name, key in itertools.product(CHARTS, ("version", "appVersion")):
        chart = (root / name).read_text(encoding="utf-8")
        if (line := re.search(rf'(?m)^{key}: "?([^"\n]+)"?$', chart)) is None:
            found.append(f"{name}: no {key}")
        elif line[1] != version:
            found.append(f"{name}: {key} is {line[1]}, not {version}")
    entry = section((root / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    if entry is None:
        found.append(f"CHANGELOG.md: no section ## [{version}] - YYYY-MM-DD")
    else:
        date, text = entry
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
            found.append(f"CHANGELOG.md: the section of {version} has no date YYYY-MM-DD")
        if not text:
            found.append(f"CHANGELOG.md: the section of {version} is empty")
    return found


def main(arguments: list[str], root: Path) -> int:
    """Print the section or the mistakes; return the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: check_release.py TAG\n")
        return 2
    if found := mistakes(root, arguments[0]):
        sys.stderr.write("".join(f"{mistake}\n" for mistake in found))
        return 1
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    entry = section(changelog, arguments[0].removeprefix("v"))
    sys.stdout.write(f"{entry[1] if entry else ''}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).parents[1]))
