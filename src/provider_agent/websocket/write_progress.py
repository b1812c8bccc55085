"""Whether sending on a connection makes progress, and how long a write takes. No I/O."""

from collections.abc import Callable
from types import TracebackType
from typing import Final

WRITE_STALL_S: Final = 30.0
"""If no byte of the waiting data leaves this process for this long, the peer has vanished or does
not read. A link that makes progress is kept, however slow it is."""

CHECK_INTERVAL_S: Final = WRITE_STALL_S / 8
"""The time between two checks of the write buffer."""


class WriteProgress:
    """Decides whether writing makes progress."""

    def __init__(self) -> None:
        self._waiting = 0
        self._progress_at = 0.0
        self._buffered = 0

    def begin(self, now: float) -> None:
        """Record the start of a write."""
        if not self._waiting:
            self._progress_at = now
        self._waiting += 1

    def end(self, now: float) -> None:
        """Record the end of a write, successful or not."""
        self._waiting -= 1
        self._progress_at = now

    def stalled(self, buffered: int, now: float) -> bool:
        """Whether a write has made no progress for `WRITE_STALL_S`.

        Args:
            buffered: bytes in the transport's write buffer.
            now: seconds of the same clock as in the other calls.
        """
        if buffered < self._buffered:
            self._progress_at = now
        self._buffered = buffered
        return self._waiting > 0 and now - self._progress_at >= WRITE_STALL_S


class WriteTimer:
    """A context manager around a write that may wait for space in the write buffer.

    A task reuses one object for all of its writes: a new one for each message would cost CPU time.

    Args:
        progress: records the write.
        clock: monotonic, in seconds.

    Attributes:
        duration_s: how long the last write took.
    """

    def __init__(self, progress: WriteProgress, clock: Callable[[], float]) -> None:
        self.duration_s = 0.0
        self._progress = progress
        self._clock = clock
        self._entered_at = 0.0

    def __enter__(self) -> None:
        self._entered_at = now = self._clock()
        self._progress.begin(now)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        now = self._clock()
        self.duration_s = now - self._entered_at
        self._progress.end(now)
