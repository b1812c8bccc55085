"""docs/usepod.md names a test for every promise."""

import re
from pathlib import Path
from typing import Final

from provider_agent.conformance import agent_run, coordinator_run
from tests.conformance.requirement_sentences import anchors

ROOT: Final = Path(__file__).parents[3]
TEXT: Final = (ROOT / "docs" / "usepod.md").read_text(encoding="utf-8")


def rows() -> list[list[str]]:
    table = TEXT.partition("| Promise |")[2].partition("\n\n")[0]
    return [row.strip("| ").split(" | ") for row in table.splitlines()[2:]]


def test_every_promise_names_a_test_that_exists() -> None:
    named = [re.fullmatch(r"`(tests/[\w/]+\.py)::(\w+)`", row[-1]) for row in rows()]
    assert len(named) > 20
    assert None not in named
    missing = [
        found[0]
        for found in named
        if found and f"def {found[2]}(" not in (ROOT / found[1]).read_text(encoding="utf-8")
    ]

    assert missing == []


def test_every_promise_says_what_holds_on_each_dialect() -> None:
    assert [row for row in rows() if len(row) != 4 or not all(row)] == []
    assert len({row[0] for row in rows()}) == len(rows())


def test_the_cases_of_the_kit_refer_to_a_heading() -> None:
    anchors_of_cases = {
        case.anchor
        for run in (agent_run, coordinator_run)
        for case in (*run.USEPOD_CASES, *run.USEPOD_TRAFFIC_CASES)
    }

    assert anchors_of_cases <= anchors(TEXT)
