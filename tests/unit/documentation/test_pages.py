"""The pages of the documentation: links, navigation, and the pictures of diagrams."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from documentation.diagrams import diagrams, picture_of
from documentation.markdown import anchors, broken_links, links, prose, slug_of
from documentation.offline import requested_hosts
from documentation.stage import PAGES, place_of, site_configuration, stage

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINKING = [*DOCUMENTS, *sorted((ROOT / "deploy").rglob("*.md")), *ROOT.glob(".github/**/*.md")]


@pytest.mark.parametrize("path", LINKING, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_heading(path: Path) -> None:
    assert broken_links(ROOT, path) == []


def test_every_page_is_in_the_navigation_once() -> None:
    project = tomllib.loads(site_configuration())["project"]

    def listed(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        values = entry.values() if isinstance(entry, dict) else entry
        return [page for value in values for page in listed(value)]

    pages = [place_of(path.relative_to(ROOT).as_posix()) for path in DOCUMENTS]
    assert sorted(listed(project["nav"])) == sorted(pages)


def test_every_diagram_has_a_picture_and_every_picture_a_diagram() -> None:
    wanted = {picture_of(block) for block in diagrams(ROOT)}
    pictures = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "diagrams").iterdir()
    }
    assert pictures == wanted, "run make docs-diagrams"


def test_every_list_and_table_follows_a_blank_line() -> None:
    # Otherwise the generator of the site prints them as a part of the paragraph.
    found = [
        f"{path.name}: {line}"
        for path in DOCUMENTS
        for block in _blocks(path)
        for before, line in pairwise(block)
        if re.match(r"(- |1\. |\| --- )", line)
        and not re.match(r"(- |\d+\. |\||  )", before)
        and not any(re.match(r"(- |\d+\. )", one) for one in block[: block.index(line)])
    ]
    assert found == []


def _blocks(path: Path) -> list[list[str]]:
    return [part.splitlines() for part in re.split(r"\n\s*\n", prose(path.read_text("utf-8")))]


def make_project(root: Path, page: str) -> None:
    for name in PAGES:
        (root / name).write_text("# A page\n")
    (root / "docs").mkdir()
    (root / "docs" / "zensical.toml").touch()
    (root / "docs" / "page.md").write_text(page)


def test_staged_pages_link_to_copies_of_files_outside_docs(tmp_path: Path) -> None:
    root = tmp_path / "project"
    (root / "deploy").mkdir(parents=True)
    (root / "deploy" / "unit.service").write_text("[Unit]\n")
    make_project(
        root,
        "# Page\n[`unit`](../deploy/unit.service) [log](../CHANGELOG.md#a-page) [folder](../deploy)"
        "\n[here](#page) [there](https://example.com/) `[code](../x)`\n```\n[code](../y)\n```\n",
    )

    stage(tmp_path / "site", root)

    source = tmp_path / "site" / "source"
    assert (source / "page.md").read_text() == (
        "# Page\n[`unit`](files/deploy/unit.service) [log](changelog.md#a-page) folder\n"
        "[here](#page) [there](https://example.com/) `[code](../x)`\n```\n[code](../y)\n```\n"
    )
    assert (source / "files" / "deploy" / "unit.service").read_text() == "[Unit]\n"


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("[x](../missing.toml)", "docs/page.md: the link to ../missing.toml leads to no file"),
        ("```mermaid\nflowchart LR\n```\n", "docs/page.md: a diagram has no picture"),
    ],
)
def test_staging_refuses_what_the_site_cannot_show(tmp_path: Path, page: str, message: str) -> None:
    root = tmp_path / "project"
    root.mkdir()
    make_project(root, page)

    with pytest.raises(ValueError, match=re.escape(message)):
        stage(tmp_path / "site", root)


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `title`\n[a](#a-title) [b](#b) [c](page.md#a-title) [d](other.md) [e](../..)\n"
    )

    assert broken_links(tmp_path, page) == ["page.md: #b", "page.md: other.md", "page.md: ../.."]


def test_anchors_are_those_of_repository_viewers() -> None:
    text = "# `[[backends]]`\n## A, b – c's [link](x.md)\n### Twice\n### Twice\n```\n# code\n```\n"

    assert anchors(text) == {"backends", "a-b--cs-link", "twice", "twice-1"}
    assert slug_of("What `check` prints") == "what-check-prints"
    assert links("[a [b]](c) ![d](e) `[f](g)`") == ["c", "e"]


@pytest.mark.parametrize(
    ("html", "found"),
    [
        ('<a href="https://x.example/">x</a><link rel="canonical" href="https://x/">', []),
        ('<script src="assets/a.js"></script><img src="data:image/png;base64,//x">', []),
        ('<script src="https://x.example/a.js"></script>', ["https://x.example/a.js"]),
        ('<link rel="stylesheet" href="//x.example/a.css">', ["//x.example/a.css"]),
        ("<style>@import url(https://x.example/f)</style>", ["https://x.example/f"]),
        ('<p style="background: url(https://x.example/i)">', ["https://x.example/i"]),
        ('<pre class="mermaid">', ['class="mermaid"']),
    ],
)
def test_requests_to_other_hosts_are_found(html: str, found: list[str]) -> None:
    assert requested_hosts(html) == found
