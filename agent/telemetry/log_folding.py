"""Drops warnings that repeat, and counts them, so that they do not bury the rest of the log."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

EVENT: Final = "warnings repeated"
"""The event of the record that replaces the dropped ones."""

WINDOW_S: Final = 60.0
"""Repetitions within this time are counted together."""

LOGGED: Final = 3
"""The records of a window that are logged: enough to see that something repeats, and how fast."""

MAX_KINDS: Final = 256
"""The most kinds of warnings that are counted at the same time; others are not dropped."""

_ALWAYS: Final = frozenset({"job", "retry_in_s"})
"""Fields of records that always pass."""

_Kind = tuple[str, str, tuple[tuple[str, str], ...]]
"""Logger, event, and the text fields that repetitions have in common."""


class _Window:
    """The repetitions of one kind of warning."""

    __slots__ = ("count", "started_at")

    def __init__(self, started_at: float) -> None:
        self.count = 0
        self.started_at = started_at


class WarningFolder(logging.Filter):
    """A filter for a handler.

    Two warnings are the same if logger, event and text fields are; numbers may differ. The first
    `LOGGED` of each minute pass. The number of the others is logged with the first record after
    that minute. Warnings about a job always pass, because each job has a line, and so do errors.
    Warnings with a time until the next attempt pass as well: backoff limits their number, and
    without them a waiting agent would look like one that hangs.

    Args:
        handle: logs a record; usually the handler's method.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        handle: Callable[[logging.LogRecord], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._handle = handle
        self._clock = clock
        self._windows: dict[_Kind, _Window] = {}
        """The oldest first."""
        # Reentrant: the garbage collector may run at any time, and a finalizer may log.
        self._lock = threading.RLock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record; first log the counts of the windows that have ended."""
        is_warning = record.levelno == logging.WARNING
        if not self._windows and not is_warning:
            return True
        with self._lock:
            now = self._clock()
            ended = self._take_ended(now)
            passes = not is_warning or self._count(record, now) <= LOGGED
        for kind, window in ended:
            if window.count > LOGGED:
                self._handle(_summary(kind, window.count - LOGGED, record))
        return passes

    def _take_ended(self, now: float) -> list[tuple[_Kind, _Window]]:
        ended = []
        for kind, window in list(self._windows.items()):
            if now - window.started_at < WINDOW_S:
                break
            ended.append((kind, window))
            del self._windows[kind]
        return ended

    def _count(self, record: logging.LogRecord, now: float) -> int:
        """Count a warning; return which one of its window it is."""
        fields = record.__dict__.get("fields")
        if record.msg == EVENT or not isinstance(fields, dict) or not _ALWAYS.isdisjoint(fields):
            return 1
        texts = tuple((name, value) for name, value in fields.items() if isinstance(value, str))
        kind = (record.name, record.msg, texts)
        window = self._windows.get(kind)
        if window is None:
            if len(self._windows) >= MAX_KINDS:
                return 1
            window = self._windows[kind] = _Window(now)
        window.count += 1
        return window.count


def _summary(kind: _Kind, count: int, following: logging.LogRecord) -> logging.LogRecord:
    """Return the record with the count; it has the time of the record that it is logged before."""
    name, event, texts = kind
    record = logging.LogRecord(name, logging.WARNING, __file__, 0, EVENT, None, None)
    record.created, record.msecs = following.created, following.msecs
    record.fields = {"warning": event, "count": count, "seconds": int(WINDOW_S), **dict(texts)}
    return record
