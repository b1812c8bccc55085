"""A logging handler that never waits for its output.

A full pipe or a stopped terminal blocks `write`. In an event loop that would stop every connection,
so a thread writes the lines. Lines that do not fit the thread's queue are dropped and counted.
"""

import logging
import os
import select
import threading
import time
from collections import deque
from typing import Final, TextIO

MAX_QUEUED_BYTES: Final = 1024 * 1024
"""The most bytes that wait for the output; further lines are dropped."""

PAUSE_S: Final = 0.02
"""The thread's pause after each write. Further lines share the next write: waking up the thread for
each line would cost more than the line."""

FLUSH_S: Final = 2.0
"""The longest time that `flush` waits, for example when the process exits."""


class ThreadedHandler(logging.Handler):
    """Writes lines to a file descriptor in a thread of its own.

    Args:
        fd: where to write; it stays open. It may be non-blocking.

    Attributes:
        dropped: the number of lines dropped so far.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.dropped = 0
        self._fd = fd
        self._unreported = 0
        """Dropped lines that the next `log lines dropped` line will count."""
        self._lines: deque[bytes] = deque()
        self._queued_bytes = 0
        # Reentrant: the garbage collector may run at any time, and a finalizer may log.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._is_idle = False
        """Whether the thread waits for a line, or is about to."""
        self._thread: threading.Thread | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<ThreadedHandler fd={self._fd} dropped={self.dropped}>"

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line; drop it if the queue is full or the handler is closed."""
        try:
            line = self._line(record)
        except Exception:  # noqa: BLE001 - as every handler of `logging`
            self.handleError(record)
            return
        size = len(line)
        with self._lock:
            if self._closed or self._queued_bytes + size > MAX_QUEUED_BYTES:
                self.dropped += 1
                self._unreported += 1
                return
            self._lines.append(line)
            self._queued_bytes += size
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_lines, daemon=True, name="log")
                self._thread.start()
            # Not only for the first line: a finalizer may have queued that in the thread itself,
            # after the thread had found the queue empty, and before it waited.
            if self._is_idle:
                self._changed.notify_all()

    def flush(self) -> None:
        """Wait until every queued line is written, at most `FLUSH_S`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queued_bytes, FLUSH_S)

    def close(self) -> None:
        """End the thread when it has written every queued line; does not wait."""
        super().close()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _write_lines(self) -> None:
        while True:
            with self._changed:
                self._is_idle = True
                self._changed.wait_for(lambda: self._lines or self._unreported or self._closed)
                self._is_idle = False
                if not (self._lines or self._unreported):
                    return
                lines, self._lines = self._lines, deque()
                dropped, self._unreported = self._unreported, 0
            written = sum(map(len, lines))
            if dropped:
                lines.append(self._line(_dropped_record(dropped)))
            self._write(b"".join(lines))
            with self._changed:
                self._queued_bytes -= written
                self._changed.notify_all()
            time.sleep(PAUSE_S)

    def _write(self, data: bytes) -> None:
        """Write all bytes; if the output is closed or fails, discard the rest."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                select.select((), (self._fd,), ())
            except OSError:
                return


def handler_for(stream: TextIO) -> logging.Handler:
    """Return a handler that writes to a stream without waiting.

    A stream without a file descriptor is in memory: a plain handler never waits for it.
    """
    try:
        return ThreadedHandler(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return logging.StreamHandler(stream)


def dropped_lines() -> int:
    """Return the number of lines that the root logger's handlers have dropped so far."""
    handlers = logging.getLogger().handlers
    return sum(one.dropped for one in handlers if isinstance(one, ThreadedHandler))


def _dropped_record(count: int) -> logging.LogRecord:
    text = "log lines dropped"
    record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None)
    record.fields = {"count": count}
    return record
