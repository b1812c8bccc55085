"""docs/security.md points at code and tests that are there."""

import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
POINTERS: Final = sorted(set(re.findall(r"`([a-z]+/[\w./*-]*)`", TEXT)))
LINKS: Final = sorted(set(re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", TEXT)))


@pytest.mark.parametrize("pointer", POINTERS)
def test_what_it_points_at_is_there(pointer: str) -> None:
    assert list(ROOT.glob(pointer.rstrip("/")))


@pytest.mark.parametrize("link", LINKS)
def test_what_it_links_to_is_there(link: str) -> None:
    assert (ROOT / "docs" / link).is_file()


def test_every_threat_names_a_test() -> None:
    section = TEXT.partition("\n## Threats")[2].partition("\n### The reference coordinator")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    threats = [row for row in rows if not row.startswith(("| Threat |", "| --- |"))]
    assert threats
    # What has nothing to be tested in this repository's own code.
    untested = {"seeing another client's answer", "inbound ports", "a break-in through the agent"}
    without = {row.split(" | ")[0].strip("| ") for row in threats if "`tests/" not in row}
    named = {row for row in without if "the same tests" not in row}
    assert named <= untested
