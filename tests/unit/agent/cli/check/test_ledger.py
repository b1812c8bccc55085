from pathlib import Path

import pytest
from msgspec.structs import replace

from provider_agent.agent.cli.check.findings import Outcome
from provider_agent.agent.cli.check.ledger import check_ledger
from tests.kit.agent_config import agent_config


@pytest.mark.parametrize(
    ("path", "details"),
    [
        ("new.jsonl", "can be written"),
        ("ledger.jsonl", "can be written"),
        ("missing/ledger.jsonl", "the folder {folder}/missing does not exist"),
        ("folder", "Is a directory"),
    ],
)
def test_ledger_that_cannot_be_written_is_a_warning(
    tmp_path: Path, path: str, details: str
) -> None:
    """`check` passed, and `run` then exited with 2."""
    (tmp_path / "ledger.jsonl").touch()
    (tmp_path / "folder").mkdir()
    config = agent_config("wss://c.example")
    ledger = replace(config.observability, ledger_path=tmp_path / path)
    (finding,) = check_ledger(replace(config, observability=ledger))
    assert finding.details.endswith(details.format(folder=tmp_path))
    ok = details == "can be written"
    assert finding.outcome == (Outcome.OK if ok else Outcome.WARNING)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["folder", "ledger.jsonl"]


def test_without_a_ledger_there_is_no_finding() -> None:
    assert check_ledger(agent_config("wss://c.example")) == []
