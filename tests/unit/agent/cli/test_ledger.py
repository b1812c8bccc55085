import csv
import io
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from provider_agent.agent.cli.ledger import COLUMNS, csv_lines
from provider_agent.agent.telemetry.ledger import LedgerEntry
from tests.unit.agent.cli.calls import invoke
from tests.unit.agent.cli.test_earnings import CONFIG, entry


def rows_of(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline=""), strict=True))


def test_csv_has_every_field_of_an_entry_and_what_it_earned() -> None:
    fields = {"ended_at", "earned_usd", *LedgerEntry.__struct_fields__}
    assert fields == set(COLUMNS)
    (row,) = rows_of(b"".join(csv_lines([entry()])))
    assert row == {
        "ended_at": "1970-01-01T00:00:01.000Z",
        "id": "a",
        "model": "m",
        "backend": "b",
        "format": "openai",
        "code": "ok",
        "bytes": "1",
        "duration_ms": "1",
        "first_byte_ms": "",
        "input_tokens": "3",
        "output_tokens": "7",
        "input_price_per_1m": "500000",
        "output_price_per_1m": "2000000",
        "earned_usd": "0.000015500000",
        "sha256": "",
    }


@pytest.mark.parametrize(
    ("changes", "amount"),
    [
        ({"code": "cancelled"}, "0.000000000000"),
        ({"input_price_per_1m": None, "output_price_per_1m": None}, ""),
        ({"input_tokens": None, "output_tokens": None}, ""),
        ({"output_tokens": 1, "input_tokens": 0, "output_price_per_1m": 1}, "0.000000000001"),
    ],
)
def test_earned_amount_is_exact_and_empty_if_unknown(
    changes: dict[str, object], amount: str
) -> None:
    changed = msgspec.structs.replace(entry(), **changes)
    (row,) = rows_of(b"".join(csv_lines([changed])))
    assert row["earned_usd"] == amount


@pytest.mark.parametrize(
    "model",
    ["a,b", 'a"b', "a\r\nb", "a\nb", "Gr\u00f6\u00dfe \u6a21", "a;b", " a ", "'a"],
)
def test_csv_is_read_back_exactly(model: str) -> None:
    data = b"".join(csv_lines([entry(model=model), entry()]))
    assert data.endswith(b"\r\n")
    assert [row["model"] for row in rows_of(data)] == [model, "m"]


@pytest.mark.parametrize(
    "model",
    [
        "=cmd|' /C calc'!A0",
        "+1",
        "-1+1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "\N{FULLWIDTH EQUALS SIGN}1",
    ],
)
def test_name_of_a_model_is_no_formula(model: str) -> None:
    (row,) = rows_of(b"".join(csv_lines([entry(model=model)])))
    assert row["model"] == f"'{model}"


def test_name_of_a_model_is_no_formula_after_a_semicolon() -> None:
    (row,) = rows_of(b"".join(csv_lines([entry(model="m;=1+1; @x;y")])))
    assert row["model"] == "m;'=1+1;' @x;y"


@pytest.fixture
def ledger(runner: CliRunner) -> Path:  # in the folder of `runner`
    path = Path("ledger.jsonl")
    Path("ledger.jsonl.2").write_bytes(msgspec.json.encode(entry(0)) + b"\n")
    Path("ledger.jsonl.1").write_bytes(msgspec.json.encode(entry(1)) + b"\n")
    whole = msgspec.json.encode(entry(2))
    path.write_bytes(whole + b"\n" + whole[: len(whole) // 2])
    return path


@pytest.mark.usefixtures("ledger")
def test_export_reads_all_files_and_reports_a_damaged_last_line(runner: CliRunner) -> None:
    result = invoke(runner, "ledger", "export", config=CONFIG)
    assert result.exit_code == 0
    days = [row["ended_at"][:10] for row in rows_of(result.stdout_bytes)]
    assert days == ["1970-01-01", "1970-01-02", "1970-01-03"]
    assert result.stderr == "ledger.jsonl: skipped 1 unreadable line\n"


@pytest.mark.usefixtures("ledger")
def test_export_as_json_lines_of_a_period(runner: CliRunner) -> None:
    options = ("--format", "jsonl", "--since", "1970-01-02", "--until", "1970-01-03")
    result = invoke(runner, "ledger", "export", *options, config=CONFIG)
    (line,) = result.stdout_bytes.splitlines()
    assert msgspec.json.decode(line, type=LedgerEntry) == entry(1)


def test_export_without_a_ledger_says_what_to_do(runner: CliRunner) -> None:
    result = invoke(runner, "ledger", "export", config="")
    assert result.exit_code == 1
    assert "set [observability] ledger_path" in result.output
