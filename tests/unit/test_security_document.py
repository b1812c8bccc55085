"""docs/security.md names code and tests that exist."""

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
POINTERS: Final = sorted(set(re.findall(r"`([a-z]+/[\w./*-]*)`", TEXT)))
LINKS: Final = sorted(set(re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", TEXT)))


def test_every_named_path_and_link_exists() -> None:
    assert POINTERS
    assert LINKS

    missing = [pointer for pointer in POINTERS if not list(ROOT.glob(pointer.rstrip("/")))]
    broken = [link for link in LINKS if not (ROOT / "docs" / link).is_file()]

    assert missing + broken == []


def test_every_threat_names_a_test() -> None:
    section = TEXT.partition("\n## Threats")[2].partition("\n### The reference coordinator")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    headers = ("| Threat |", "| What was tried |", "| --- |")
    threats = [row for row in rows if not row.startswith(headers)]
    assert threats
    untestable = {
        "seeing another client's response",
        "inbound ports",
        "privilege escalation through the agent",
    }
    threats_without_tests = {
        row.split(" | ")[0].strip("| ") for row in threats if "`tests/" not in row
    }
    assert threats_without_tests <= untestable
