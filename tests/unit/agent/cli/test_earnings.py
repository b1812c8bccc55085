import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from provider_agent.agent.cli.earnings import EarningsRow, sum_up
from provider_agent.agent.telemetry.ledger import LedgerEntry
from tests.unit.agent.cli.calls import invoke

DAY_S = 86_400.0
CONFIG = '[observability]\nledger_path = "ledger.jsonl"\n'


def entry(
    day: int = 0, model: str = "m", code: str = "ok", tokens: tuple[int | None, int] = (3, 7)
) -> LedgerEntry:
    return LedgerEntry(
        id="a",
        ended_at=day * DAY_S + 1,
        model=model,
        backend="b",
        format="openai",
        code=code,
        bytes=1,
        duration_ms=1,
        input_tokens=tokens[0],
        output_tokens=tokens[1],
        input_price_per_1m=500_000,
        output_price_per_1m=2_000_000,
    )


def test_jobs_are_summed_by_day_and_model() -> None:
    entries = [
        entry(day=1),
        entry(),
        entry(tokens=(None, 7)),
        entry(code="cancelled"),
        entry(model="a"),
    ]
    rows = sum_up(entries)
    assert rows == [
        EarningsRow("1970-01-01", "a", 1, 0, 3, 7, 15.5),
        EarningsRow("1970-01-01", "m", 2, 1, 3, 14, 29.5),
        EarningsRow("1970-01-02", "m", 1, 0, 3, 7, 15.5),
    ]


@pytest.fixture
def ledger(runner: CliRunner) -> Path:  # in the folder of `runner`
    path = Path("ledger.jsonl")
    path.write_bytes(b"cut off\n" + msgspec.json.encode(entry(model="m\x1b[2J")) + b"\n")
    return path


@pytest.mark.usefixtures("ledger")
def test_earnings_are_printed_as_a_table_with_a_total(runner: CliRunner) -> None:
    result = invoke(runner, "earnings", config=CONFIG)
    assert result.exit_code == 0
    assert "1970-01-01" in result.output
    assert "m\ufffd[2J" in result.output
    assert result.output.count("$0.000016") == 2, "one row, and the total"
    assert "ledger.jsonl: skipped 1 unreadable line" in result.output


@pytest.mark.parametrize("command", [("earnings",), ("ledger", "sum")])
@pytest.mark.parametrize(
    ("period", "days"),
    [
        ((), [0, 1, 2]),
        (("--since", "1970-01-02"), [1, 2]),
        (("--until", "1970-01-03"), [0, 1]),
        (("--since", "1970-01-02", "--until", "1970-01-03"), [1]),
        (("--since", "1970-01-02T00:00:01"), [1, 2]),
        (("--since", "1970-01-02T00:00:02"), [2]),
        (("--since", "1970-01-02T02:00:02+02:00"), [2]),
    ],
)
def test_earnings_of_a_period(
    command: tuple[str, ...], period: tuple[str, ...], days: list[int], runner: CliRunner
) -> None:
    lines = [msgspec.json.encode(entry(day)) for day in range(3)]
    Path("ledger.jsonl").write_bytes(b"\n".join(lines))
    result = invoke(runner, *command, "--json", *period, config=CONFIG)
    found = [row["day"] for row in json.loads(result.stdout)]
    assert found == [f"1970-01-0{day + 1}" for day in days]


@pytest.mark.parametrize("value", ["yesterday", "2026-13-01", ""])
def test_unreadable_date_says_how_to_write_it(value: str, runner: CliRunner) -> None:
    result = invoke(runner, "earnings", "--since", value, config=CONFIG)
    assert result.exit_code == 2
    assert "write 2026-11-30 or 2026-11-30T18:00" in " ".join(result.output.split())


@pytest.mark.usefixtures("ledger")
def test_earnings_as_json_are_whole_rows(runner: CliRunner) -> None:
    result = invoke(runner, "earnings", "--json", config=CONFIG)
    (row,) = json.loads(result.stdout)
    assert (row["day"], row["jobs"], row["earned_millionths"]) == ("1970-01-01", 1, 15.5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("", "there is no ledger; set [observability] ledger_path"),
        (CONFIG, "the ledger ledger.jsonl cannot be read: No such file or directory"),
    ],
)
def test_missing_ledger_says_what_to_do(config: str, message: str, runner: CliRunner) -> None:
    result = invoke(runner, "earnings", config=config)
    assert result.exit_code == 1
    assert message in result.output


@pytest.mark.parametrize("as_json", [False, True])
def test_empty_ledger_is_explained(runner: CliRunner, as_json: bool) -> None:
    """It printed the head of a table without rows."""
    Path("ledger.jsonl").touch()

    result = invoke(runner, "earnings", *(["--json"] if as_json else []), config=CONFIG)

    assert result.exit_code == 0
    if as_json:
        assert json.loads(result.stdout) == []
    else:
        assert result.output.startswith("The ledger ledger.jsonl has no jobs yet.")
        assert "`provider-agent status`" in result.output


@pytest.mark.parametrize("command", [("earnings",), ("ledger", "export")])
@pytest.mark.parametrize("until", ["2026-11-30", "2026-11-29"])
def test_empty_period_is_an_error(command: tuple[str, ...], until: str, runner: CliRunner) -> None:
    """It printed an empty table, as if no job had ended."""
    period = ("--since", "2026-11-30", "--until", until)
    result = invoke(runner, *command, *period, config=CONFIG)
    assert result.exit_code == 2
    assert "--until must be later than --since" in result.output
