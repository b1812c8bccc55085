import io
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator

import pytest

from provider_agent import log_writer
from provider_agent.coordinator.command import FieldsFormatter
from provider_agent.log_writer import MAX_QUEUED_BYTES, ThreadedHandler, dropped_lines, handler_for


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("test of the log writer")
    logger.propagate = False
    yield logger
    for handler in logger.handlers[:]:
        handler.close()
        logger.removeHandler(handler)


def read_until(fd: int, end: bytes) -> bytes:
    """Read until `end` has arrived."""
    data = b""
    while not data.endswith(end):
        data += os.read(fd, 65536)
    return data


def test_record_that_cannot_be_formatted_does_not_stop_the_log(
    pipe: tuple[int, int], logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)  # else the error goes to stderr
    reading, writing = pipe
    handler = ThreadedHandler(writing)
    logger.addHandler(handler)
    logger.warning("%d", "no number")
    logger.warning("next")
    handler.flush()

    assert os.read(reading, 65536) == b"next\n"


def test_lines_are_written_in_order(pipe: tuple[int, int], logger: logging.Logger) -> None:
    reading, writing = pipe
    handler = ThreadedHandler(writing)
    logger.addHandler(handler)
    for number in range(100):
        logger.warning("line %d", number)
    handler.emit(logging.makeLogRecord({"msg": "a lone surrogate \udcff"}))
    handler.flush()

    lines = os.read(reading, 65536).decode().splitlines()
    assert lines == [*(f"line {number}" for number in range(100)), "a lone surrogate \\udcff"]


def test_finalizer_may_log_while_a_line_is_queued(pipe: tuple[int, int]) -> None:
    # The garbage collector may run in the middle of `emit`.
    reading, writing = pipe
    handler = ThreadedHandler(writing)

    class FirstAppendLogs(deque[bytes]):
        logs = True

        def append(self, line: bytes) -> None:
            if self.logs:
                self.logs = False
                handler.emit(logging.makeLogRecord({"msg": "unclosed socket"}))
            super().append(line)

    handler._lines = FirstAppendLogs()
    record = logging.makeLogRecord({"msg": "job ended"})
    thread = threading.Thread(target=handler.emit, args=(record,), daemon=True)
    thread.start()
    thread.join(5)

    assert not thread.is_alive(), "emit waits for itself"
    handler.flush()
    assert os.read(reading, 65536) == b"unclosed socket\njob ended\n"
    handler.close()


def test_finalizer_may_log_in_the_thread_before_it_waits(pipe: tuple[int, int]) -> None:
    # The thread then waited although a line was queued, and no later line woke it up.
    reading, writing = pipe
    handler = ThreadedHandler(writing)
    waits = threading.Event()

    class FirstWaitLogs(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            if threading.current_thread() is handler._thread and not waits.is_set():
                handler.emit(logging.makeLogRecord({"msg": "unclosed socket"}))
                waits.set()
            return super().wait(timeout)

    handler._changed = FirstWaitLogs(handler._lock)
    handler.emit(logging.makeLogRecord({"msg": "first"}))
    assert waits.wait(5)
    handler.emit(logging.makeLogRecord({"msg": "last"}))
    handler.flush()

    assert os.read(reading, 65536) == b"first\nunclosed socket\nlast\n"
    handler.close()


@pytest.mark.parametrize("blocking", [True, False], ids=["blocking fd", "non-blocking fd"])
def test_unread_pipe_blocks_no_caller_and_dropped_lines_are_counted(
    pipe: tuple[int, int], logger: logging.Logger, blocking: bool
) -> None:
    reading, writing = pipe
    os.set_blocking(writing, blocking)
    handler = ThreadedHandler(writing)
    handler.setFormatter(FieldsFormatter("%(message)s"))
    logger.addHandler(handler)
    first, line = "y" * (MAX_QUEUED_BYTES // 2), "x" * 1023
    logger.warning(first)
    assert os.read(reading, 1) == b"y", "the thread writes the first line, and waits for the pipe"
    for _ in range(MAX_QUEUED_BYTES // 1024):
        logger.warning(line)
    dropped = handler.dropped
    assert dropped >= MAX_QUEUED_BYTES // 2 // 1024

    data = read_until(reading, f"log lines dropped count={dropped}\n".encode())
    handler.flush()
    logger.warning("the end")
    data += read_until(reading, b"the end\n")
    assert data.startswith(f"{first[1:]}\n".encode())
    assert data.count(line.encode()) == MAX_QUEUED_BYTES // 1024 - dropped
    assert data.count(b"log lines dropped") == 1


def test_dropped_lines_are_reported_although_no_line_follows(
    pipe: tuple[int, int], logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In an earlier version, lines that were dropped while the thread wrote the last queued line
    # were reported only together with the next line, or never.
    monkeypatch.setattr(log_writer, "MAX_QUEUED_BYTES", 200_001)
    reading, writing = pipe
    handler = ThreadedHandler(writing)
    handler.setFormatter(FieldsFormatter("%(message)s"))
    logger.addHandler(handler)
    logger.warning("x" * 200_000)
    assert os.read(reading, 1) == b"x", "the thread has taken the line"
    logger.warning("dropped")
    assert read_until(reading, b"log lines dropped count=1\n")


def test_dropped_lines_of_the_root_logger_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "MAX_QUEUED_BYTES", 4)
    handler = ThreadedHandler(-1)
    root, before = logging.getLogger(), dropped_lines()
    root.addHandler(handler)
    try:
        root.warning("a line")
        dropped = dropped_lines()
    finally:
        root.removeHandler(handler)
        handler.close()

    assert dropped == before + 1


def test_flush_ends_although_nothing_is_read(
    pipe: tuple[int, int], logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "FLUSH_S", 0.01)
    handler = ThreadedHandler(pipe[1])
    logger.addHandler(handler)
    logger.warning("x" * 200_000)

    handler.flush()

    assert repr(handler) == f"<ThreadedHandler fd={pipe[1]} dropped=0>"
    read_until(pipe[0], b"\n")  # so that the handler's thread ends


def test_closed_output_discards_lines(logger: logging.Logger) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    handler = ThreadedHandler(writing)
    logger.addHandler(handler)
    logger.warning("nobody reads this")
    handler.flush()
    os.close(writing)
    assert handler._queued_bytes == 0


def test_stream_in_memory_is_written_at_once(logger: logging.Logger) -> None:
    stream = io.StringIO()
    logger.addHandler(handler_for(stream))
    logger.warning("a line")
    assert stream.getvalue() == "a line\n"
