"""Whether sending on a connection makes progress. No I/O; events and times are arguments."""

from typing import Final

WRITE_STALL_S: Final = 30.0
"""If no byte of the waiting data leaves this process for this long, the peer has vanished or does
not read. A link that makes progress is kept, however slow it is."""


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
