"""An append-only file of ended jobs, for accounting: one line of JSON per job, without content.

A full file becomes `<path>.1`, the one before it `<path>.2`, and so on; the oldest is deleted.
"""

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import msgspec

from provider_agent.advised_error import AdvisedError
from provider_agent.agent.jobs.job_record import JobRecord
from provider_agent.agent.telemetry.metrics import OK
from provider_agent.agent.telemetry.status import LedgerStatus
from provider_agent.event_log import EventLogger
from provider_agent.protocol.frames import JobError
from provider_agent.protocol.limits import MIB

log = EventLogger(__name__)

MAX_FILE_BYTES: Final = 16 * MIB
"""About forty thousand jobs."""

KEPT_FILES: Final = 12
"""The number of full files that are kept, so that the ledger needs at most 208 MiB."""

PAUSE_S: Final = 1.0
"""The pause after each write: further jobs share the next one. A power loss costs their lines."""

MAX_WAITING: Final = 20_000
"""The most jobs that wait to be written, in about 10 MB; if the disk takes no more, further ones
are lost and counted."""

RETRY_S: Final = 60.0
"""The pause after a failed write; a job that ends ends it."""

_BATCH: Final = 100
"""The most jobs per write."""


class LedgerError(AdvisedError):
    """The ledger cannot be written; `problem` names the file and the reason."""


Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A damaged line may have any number; sums and calendars must not fail because of it."""


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One ended job. Refused jobs have no entry: they have no tokens.

    Attributes:
        id: the job's id, in hex.
        ended_at: Unix time in seconds.
        model: the model.
        backend: the id of the backend of the last attempt.
        format: the job's wire format.
        code: `OK`, or the error code.
        bytes: the length of the response.
        duration_ms: from the job's arrival to its end.
        first_byte_ms: from its arrival to the first byte; None without one.
        input_tokens: as the server reported them; None if unknown.
        output_tokens: the same for output.
        input_price_per_1m: the offered price in millionths of a US dollar per million tokens; None:
            no price.
        output_price_per_1m: the same for output.
        sha256: the hash of the bytes of the response that were sent, in hex; None for a job of a
            version that hashed only for receipts.
    """

    id: str
    ended_at: Annotated[float, msgspec.Meta(ge=0, le=10_000_000_000)]
    model: str
    backend: str
    format: str
    code: str
    bytes: Count
    duration_ms: Count
    first_byte_ms: Count | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    input_price_per_1m: Count | None = None
    output_price_per_1m: Count | None = None
    sha256: str | None = None


class Ledger:
    """Writes the ledger in a thread, so that a slow disk delays no job.

    Args:
        path: the file.
        clock: Unix time in seconds.
        monotonic: monotonic seconds.

    Attributes:
        lost: the number of jobs that could not be written.
    """

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lost = 0
        self._path = path
        self._clock = clock
        self._monotonic = monotonic
        self._failed: tuple[float, str] | None = None
        """Since when writes fail, and why the last one did; None if it did not."""
        self._delayed = 0
        """How many of the waiting jobs a failed write has counted in `_all_delayed`."""
        self._all_delayed = 0
        self._waiting: deque[LedgerEntry] = deque()
        self._added = asyncio.Event()
        self._lock = threading.Lock()
        """Held while a thread, or `close`, writes."""

    def __repr__(self) -> str:
        return f"<Ledger {self._path} waiting={len(self._waiting)} lost={self.lost}>"

    def status(self) -> LedgerStatus:
        """Return whether the ledger is written."""
        unwritten = self._all_delayed + self.lost
        if (failed := self._failed) is None:
            return LedgerStatus(unwritten=unwritten)
        since, reason = failed
        problem = (
            f"the ledger cannot be written: {reason} (jobs that wait for it: {len(self._waiting)}, "
            f"lost: {self.lost}); free space, or correct the permissions of its file"
        )
        age_s = self._monotonic() - since
        return LedgerStatus(unwritten=unwritten, problem=problem, problem_age_s=age_s)

    def open(self) -> None:
        """Create the file if it does not exist, readable only for its owner.

        A last line that a power loss has cut off is ended, so that the next one stays whole.

        Raises:
            LedgerError: the file cannot be written.
        """
        try:
            descriptor = self._descriptor()
            try:
                if _is_cut_off(self._path):
                    os.write(descriptor, b"\n")
            finally:
                os.close(descriptor)
        except OSError as error:
            raise LedgerError(
                f"the ledger {self._path} cannot be written: {_reason(error)}",
                "correct observability.ledger_path, or create its folder for the agent's user",
            ) from error

    def add(self, record: JobRecord) -> None:
        """Add an ended job, unless it was refused; `run` or `close` writes it."""
        if not record.attempts:
            return
        if len(self._waiting) >= MAX_WAITING:
            self.lost += 1
            return
        self._waiting.append(_entry(record, self._clock()))
        self._added.set()

    async def run(self) -> None:
        """Write jobs as they end. When cancelled, `close` writes the rest."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S if self._failed else None):
                    await self._added.wait()
            self._added.clear()
            await asyncio.to_thread(self._write_waiting)
            await asyncio.sleep(PAUSE_S)

    def close(self) -> None:
        """Write what waits."""
        self._write_waiting()
        if missing := self.lost + len(self._waiting):
            log.error("jobs missing in the ledger", count=missing)

    def _write_waiting(self) -> None:
        """Write all waiting jobs; keep them if that fails."""
        with self._lock:
            while self._waiting:
                entries = [self._waiting[at] for at in range(min(len(self._waiting), _BATCH))]
                try:
                    self._write(b"".join(msgspec.json.encode(one) + b"\n" for one in entries))
                except OSError as error:
                    self._note_failure(_reason(error))
                    return
                for _ in entries:
                    self._waiting.popleft()
                self._delayed = max(0, self._delayed - len(entries))
                self._failed = None

    def _note_failure(self, reason: str) -> None:
        waiting = len(self._waiting)
        self._all_delayed += waiting - self._delayed
        self._delayed = waiting
        self._failed = (self._failed[0] if self._failed else self._monotonic(), reason)
        log.warning(
            "ledger not written",
            path=str(self._path),
            reason=reason,
            waiting=waiting,
            what_to_do="free space, or correct the permissions of the file; the jobs that wait are "
            "written within a minute",
        )

    def _write(self, data: bytes) -> None:
        descriptor = self._descriptor()
        try:
            if os.fstat(descriptor).st_size + len(data) > MAX_FILE_BYTES:
                self._rotate()
                os.close(descriptor)
                descriptor = self._descriptor()
            start = os.fstat(descriptor).st_size
            try:
                while data:
                    data = data[os.write(descriptor, data) :]
            except OSError:
                os.ftruncate(descriptor, start)  # the same entries are written again later
                raise
        finally:
            os.close(descriptor)

    def _descriptor(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _rotate(self) -> None:
        for number in range(KEPT_FILES, 0, -1):
            older = _numbered(self._path, number - 1)
            if older.exists():
                older.replace(_numbered(self._path, number))


def read_ledger(path: Path) -> Iterator[LedgerEntry | None]:
    """Yield all entries, the oldest first; None for a line that is none, as after a power loss.

    Raises:
        OSError: a file cannot be read.
    """
    decoder = msgspec.json.Decoder(LedgerEntry)
    with ExitStack() as stack:
        for line in chain.from_iterable(_open_files(path, stack)):
            if line != b"\n":
                try:
                    yield decoder.decode(line)
                except (msgspec.DecodeError, msgspec.ValidationError):
                    yield None


def _open_files(path: Path, stack: ExitStack) -> list[BinaryIO]:
    """Open all files, the oldest first.

    The running agent may rename them meanwhile, each to the next number. So the latest is opened
    first, which then is found a second time, instead of not at all; an open file stays complete.

    Raises:
        OSError: a file cannot be read, or there is none.
    """
    files: dict[tuple[int, int], BinaryIO] = {}
    missing: FileNotFoundError | None = None
    for number in range(KEPT_FILES + 1):
        try:
            file = stack.enter_context(_numbered(path, number).open("rb"))
        except FileNotFoundError as error:
            missing = missing or error
            continue
        state = os.fstat(file.fileno())
        files.setdefault((state.st_dev, state.st_ino), file)
    if not files and missing is not None:
        raise missing
    return list(reversed(files.values()))


def _entry(record: JobRecord, now: float) -> LedgerEntry:
    end = record.end
    return LedgerEntry(
        id=end.job_id.hex(),
        ended_at=round(now, 3),
        model=record.model_id,
        backend=end.backend_id,
        format=record.wire_format,
        code=end.code if isinstance(end, JobError) else OK,
        bytes=end.total_bytes,
        duration_ms=end.duration_ms,
        first_byte_ms=end.first_byte_ms,
        input_tokens=end.usage.input_tokens,
        output_tokens=end.usage.output_tokens,
        input_price_per_1m=end.input_price_per_1m,
        output_price_per_1m=end.output_price_per_1m,
        sha256=None if record.sha256 is None else record.sha256.hex(),
    )


def _is_cut_off(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read() not in (b"", b"\n")


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or 0)
