"""Every MUST of docs/protocol.md has conformance cases, or a reason why it has none."""

import re
import tomllib
from pathlib import Path
from typing import Final

from msgspec import Struct, convert

from provider_agent.conformance import agent_run, coordinator_run
from provider_agent.conformance.of_agent import traffic as agent_traffic
from provider_agent.conformance.of_coordinator import traffic as coordinator_traffic
from tests.conformance.requirement_sentences import DOCUMENT, Sentence, anchors, must_sentences

TABLE: Final = Path(__file__).with_name("requirements.toml")
TEXT: Final = DOCUMENT.read_text("utf-8")


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """One sentence of the document.

    Attributes:
        anchor: the anchor of the heading above the sentence.
        sentence: the text.
        cases: the ids of the cases that test it, with the prefix `agent/` or `coordinator/`.
        reason: why no case can test it; "" if there are cases.
    """

    anchor: str
    sentence: str
    cases: list[str] = []
    reason: str = ""


RULES: Final = convert(tomllib.loads(TABLE.read_text("utf-8"))["rule"], list[Rule])
COORDINATOR_CASES: Final = [*coordinator_run.CASES, *coordinator_traffic.CASES]
AGENT_CASES: Final = [*agent_run.CASES, *agent_traffic.CASES]


def test_the_table_lists_every_must_of_the_document() -> None:
    listed = [Sentence(rule.anchor, rule.sentence) for rule in RULES]

    assert listed == must_sentences(TEXT)


def test_every_must_has_existing_cases_or_a_reason() -> None:
    ids = {f"coordinator/{case.id}" for case in COORDINATOR_CASES}
    ids |= {f"agent/{case.id}" for case in AGENT_CASES}

    assert {case for rule in RULES for case in rule.cases} <= ids
    assert [rule for rule in RULES if bool(rule.cases) == bool(rule.reason)] == []


def test_a_file_that_a_reason_names_exists() -> None:
    root = DOCUMENT.parents[1]
    named = [path for rule in RULES for path in re.findall(r"tests/[\w/]+(?:\.py)?", rule.reason)]

    assert named
    assert [path for path in named if not (root / path).exists()] == []


def test_ids_are_unique_and_anchors_are_headings_of_the_document() -> None:
    for cases in (COORDINATOR_CASES, AGENT_CASES):
        assert len({case.id for case in cases}) == len(cases)
        assert {case.anchor for case in cases} <= anchors(TEXT)
