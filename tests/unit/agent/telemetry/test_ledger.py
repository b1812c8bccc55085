import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from provider_agent.agent.jobs.job_record import JobRecord
from provider_agent.agent.telemetry import ledger as ledger_module
from provider_agent.agent.telemetry.ledger import (
    KEPT_FILES,
    MAX_WAITING,
    RETRY_S,
    Ledger,
    LedgerEntry,
    LedgerError,
    read_ledger,
)
from provider_agent.agent.telemetry.status import LedgerStatus
from provider_agent.protocol.frames import JobEnd, JobError, JobResult, Usage
from tests.kit.fake_clock import FakeClock
from tests.kit.virtual_time import in_virtual_time

RESULT = JobResult(b"j" * 16, 9, Usage(3, 4), "vllm:http://gpu", 20, 10, 100, 200)


def record(end: JobEnd = RESULT, model_id: str = "m", attempts: int = 1) -> JobRecord:
    return JobRecord("openai", "vllm", end, 0.01, attempts, model_id, sha256=b"\x01" * 32)


def models(path: Path) -> list[str | None]:
    return [None if entry is None else entry.model for entry in read_ledger(path)]


def test_ended_job_is_one_line_without_content(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path, FakeClock(1_700_000_000.0))
    ledger.add(record())
    ledger.add(record(JobError(b"k" * 16, 0, "backend_error", "the prompt", body=b"the prompt")))
    ledger.close()
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {
        "id": "6a" * 16,
        "ended_at": 1_700_000_000.0,
        "model": "m",
        "backend": "vllm:http://gpu",
        "format": "openai",
        "code": "ok",
        "bytes": 9,
        "duration_ms": 20,
        "first_byte_ms": 10,
        "input_tokens": 3,
        "output_tokens": 4,
        "input_price_per_1m": 100,
        "output_price_per_1m": 200,
        "sha256": "01" * 32,
    }
    assert second["code"] == "backend_error"
    assert "prompt" not in path.read_text()


def test_refused_jobs_have_no_line(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    ledger.open()
    ledger.add(record(attempts=0))
    ledger.close()
    assert (tmp_path / "l").read_bytes() == b""


@in_virtual_time
async def test_jobs_are_written_while_the_agent_runs(tmp_path: Path) -> None:
    path = tmp_path / "l"
    ledger = Ledger(path)
    task = asyncio.create_task(ledger.run())
    for number in range(250):
        ledger.add(record(model_id=f"m{number}"))
    await asyncio.sleep(2)
    assert models(path) == [f"m{number}" for number in range(250)]
    ledger.add(record(model_id="last"))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    ledger.close()
    assert models(path)[-1] == "last"


def test_new_file_is_readable_only_for_its_owner(tmp_path: Path) -> None:
    Ledger(tmp_path / "l").open()
    assert stat.S_IMODE((tmp_path / "l").stat().st_mode) == 0o600


def test_ledger_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "l"
    with pytest.raises(LedgerError) as caught:
        Ledger(path).open()
    assert str(caught.value) == (
        f"the ledger {path} cannot be written: No such file or directory; correct "
        "observability.ledger_path, or create its folder for the agent's user"
    )


def test_full_files_are_numbered_and_the_oldest_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "MAX_FILE_BYTES", 1)  # every write starts another file
    path = tmp_path / "l"
    ledger = Ledger(path)
    names = [f"m{number}" for number in range(KEPT_FILES + 3)]
    for name in names:
        ledger.add(record(model_id=name))
        ledger.close()
    assert models(path) == names[-KEPT_FILES - 1 :]
    assert len(list(tmp_path.iterdir())) == KEPT_FILES + 1


def test_jobs_wait_while_the_disk_fails_and_are_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "folder" / "l"
    ledger = Ledger(path)
    ledger.add(record(model_id="first"))
    ledger.close()
    assert caplog.messages == ["ledger not written", "jobs missing in the ledger"]
    path.parent.mkdir()
    ledger.add(record(model_id="second"))
    ledger.close()
    assert models(path) == ["first", "second"]


@in_virtual_time
async def test_failure_is_in_the_status_until_a_write_succeeds(tmp_path: Path) -> None:
    # Regression: it was only in the log.
    path = tmp_path / "folder" / "l"
    ledger = Ledger(path, monotonic=asyncio.get_running_loop().time)
    assert ledger.status() == LedgerStatus()
    task = asyncio.create_task(ledger.run())
    for _ in range(2):
        ledger.add(record())
        await asyncio.sleep(2)
    problem = (
        "the ledger cannot be written: No such file or directory (jobs that wait for it: 2, lost: "
        "0); free space, or correct the permissions of its file"
    )
    assert ledger.status() == LedgerStatus(unwritten=2, problem=problem, problem_age_s=4.0)
    path.parent.mkdir()
    await asyncio.sleep(RETRY_S + 1)  # without another job
    assert len(models(path)) == 2
    assert ledger.status() == LedgerStatus(unwritten=2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_number_of_waiting_jobs_is_bounded(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    one = record()
    for _ in range(MAX_WAITING + 2):
        ledger.add(one)
    assert ledger.lost == ledger.status().unwritten == 2
    assert f"waiting={MAX_WAITING} lost=2" in repr(ledger)


def test_unreadable_lines_are_reported_as_none(tmp_path: Path) -> None:
    path = tmp_path / "l"
    entry = LedgerEntry(
        id="a", ended_at=1.0, model="m", backend="b", format="openai", code="ok", bytes=1,
        duration_ms=1,
    )  # fmt: skip
    path.write_bytes(b'{"id":"cut of\n[]\n\xff\n' + msgspec.json.encode(entry) + b"\n")
    assert list(read_ledger(path)) == [None, None, None, entry]


def test_line_after_one_that_a_power_loss_cut_off_is_whole(tmp_path: Path) -> None:
    # The next entry was appended to the damaged line, so that both were lost.
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b'{"id":"6a6a')
    ledger = Ledger(path)
    ledger.open()
    ledger.add(record(model_id="next"))
    ledger.close()
    assert models(path) == [None, "next"]


def test_reading_continues_with_the_same_files_while_the_agent_renames_them(tmp_path: Path) -> None:
    # The file that was the first became the second between the two reads, and was skipped.
    path = tmp_path / "ledger.jsonl"
    for number, name in enumerate(("c", "b", "a")):
        file = path.with_name(f"ledger.jsonl.{number}") if number else path
        ledger = Ledger(file)
        ledger.add(record(model_id=name))
        ledger.close()
    entries = read_ledger(path)
    first = next(entries)
    for number in (2, 1, 0):
        file = path.with_name(f"ledger.jsonl.{number}") if number else path
        file.replace(path.with_name(f"ledger.jsonl.{number + 1}"))
    path.touch()
    found = [one.model for one in [first, *entries] if one is not None]
    assert found == ["a", "b", "c"]


def test_files_that_the_agent_renames_while_they_are_opened_are_all_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Regression: the latest became the first full file before it was opened, and was not read.
    path = tmp_path / "ledger.jsonl"
    older = path.with_name("ledger.jsonl.1")
    for file, name in ((path, "new"), (older, "old")):
        ledger = Ledger(file)
        ledger.add(record(model_id=name))
        ledger.close()
    opened: list[Path] = []
    really_open = Path.open

    def open_and_rotate(file: Path, *args: Any, **settings: Any) -> Any:
        result = really_open(file, *args, **settings)
        if not opened:
            older.replace(path.with_name("ledger.jsonl.2"))
            path.replace(older)
            path.touch()
        opened.append(file)
        return result

    monkeypatch.setattr(Path, "open", open_and_rotate)
    assert models(path) == ["old", "new"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("ended_at", 1e300), ("ended_at", -1.0), ("input_tokens", 10**30), ("output_tokens", -5)],
)
def test_impossible_number_makes_a_line_unreadable(
    field: str, value: float, tmp_path: Path
) -> None:
    # Regression: `earnings` and `ledger export` ended with a traceback.
    path = tmp_path / "l"
    ledger = Ledger(path)
    ledger.add(record())
    ledger.close()
    line = json.loads(path.read_text())
    path.write_text(json.dumps({**line, field: value}) + "\n" + path.read_text())
    assert models(path) == [None, "m"]
