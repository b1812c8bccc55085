"""Detects that a server processes no tokens although jobs run. No I/O; the clock is an argument.

A frozen engine may still answer its health checks: vLLM's HTTP process does.
"""

from collections.abc import Callable


class StallDetector:
    """Compares what a server reports about its progress while jobs run on it.

    Args:
        stall_s: how long nothing may change before the server counts as stalled; None: never.
        clock: returns monotonic seconds.
    """

    def __init__(self, stall_s: float | None, clock: Callable[[], float]) -> None:
        self.stall_s = stall_s
        self._clock = clock
        self._progress: str | None = None
        self._changed_at = clock()

    def __repr__(self) -> str:
        return f"<StallDetector progress={self._progress!r}>"

    def restart(self) -> None:
        """Measure from now on. Called when a job starts on an idle server, and while none runs."""
        self._changed_at = self._clock()

    def progress_reported(self, progress: str | None) -> None:
        """Record the reported progress. A server that reports None never counts as stalled."""
        if progress is None or progress != self._progress:
            self._progress = progress
            self.restart()

    def is_stalled(self, waiting_since: float | None) -> bool:
        """Whether nothing has changed for `stall_s` while a job waits for the server.

        Args:
            waiting_since: see `Backend.waiting_since`.
        """
        if self.stall_s is None or self._progress is None or waiting_since is None:
            return False
        return self._clock() - max(self._changed_at, waiting_since) >= self.stall_s
