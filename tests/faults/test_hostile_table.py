"""Checks that docs/protocol.md lists the hostile inputs and the close codes of the tests."""

import re
from pathlib import Path
from typing import Final

from provider_agent.conformance.hostile_messages import HOSTILE_MESSAGES
from tests.faults.test_hostile_connections import HOSTILE_CONNECTIONS
from tests.faults.test_hostile_handshake import ROWS_WITH_OWN_TEST
from tests.faults.test_hostile_texts import HOSTILE_TEXTS
from tests.kit.hostile_agents import AGENT_ATTACKS
from tests.kit.hostile_handshakes import HANDSHAKES
from tests.kit.hostile_jobs import ATTACKS

TEXT: Final = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
NO_CLOSE_FRAME: Final = 1006
"""The code of a connection that was cut without a close frame; the tables name no code for it."""


def parse_table(first_cell: str) -> dict[str, str]:
    """Parse the table whose first column is headed `first_cell`: hostile input → reaction."""
    section = TEXT.partition("\n## Hostile input\n")[2].partition("\n## ")[0]
    rows = section.partition(f"| {first_cell} |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [re.split(r" \| ", row.strip("| ")) for row in rows]
    assert all(len(row) == 2 for row in cells)
    return {row[0]: row[1] for row in cells}


def close_codes(rows: dict[str, str]) -> dict[str, int | None]:
    """Return the close code in the text of each reaction; None if the text contains no code."""
    return {
        name: int(found[1]) if (found := re.search(r"`(1\d{3})`", reaction)) else None
        for name, reaction in rows.items()
    }


def test_table_of_messages_to_either_side_matches_the_tests() -> None:
    tested = {hostile.name: hostile.close_code for hostile in HOSTILE_MESSAGES}
    assert close_codes(parse_table("Either side sends")) == tested


def test_table_of_hostile_coordinators_matches_the_tests() -> None:
    tested: dict[str, int | None] = {attack.name: attack.close_code for attack in ATTACKS}
    tested |= {handshake.name: handshake.close_code for handshake in HANDSHAKES}
    tested = {name: None if code == NO_CLOSE_FRAME else code for name, code in tested.items()}
    tested |= dict.fromkeys((*ROWS_WITH_OWN_TEST, *HOSTILE_TEXTS))
    assert close_codes(parse_table("The coordinator sends")) == tested


def test_table_of_hostile_agents_matches_the_tests() -> None:
    tested: dict[str, int | None] = {attack.name: attack.close_code for attack in AGENT_ATTACKS}
    tested |= {item.name: item.close_code for item in HOSTILE_CONNECTIONS}
    assert close_codes(parse_table("The agent sends")) == tested
