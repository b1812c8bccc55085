"""Whether sending on a connection makes progress. Pure: events and times are arguments."""

from typing import Final

WRITE_STALL_S: Final = 30.0
"""No byte of the waiting data left this process for so long: the peer vanished or does not read,
whatever its kernel acknowledges. A link that makes progress is kept, however slow it is."""


class WriteProgress:
    """Decides whether writing makes progress."""

    def __init__(self) -> None:
        self._waiting = 0
        self._progress_at = 0.0
        self._buffered = 0

    def begin(self, now: float) -> None:
        """A write starts."""
        if not self._waiting:
            self._progress_at = now
        self._waiting += 1

    def end(self, now: float) -> None:
        """A write has ended, successfully or not."""
        self._waiting -= 1
        self._progress_at = now

    def stalled(self, buffered: int, now: float) -> bool:
        """Whether a write has made no progress for `WRITE_STALL_S`.

        Args:
            buffered: bytes in the transport's write buffer.
            now: of the same clock as in the other calls.
        """
        if buffered < self._buffered:
            self._progress_at = now
        self._buffered = buffered
        return self._waiting > 0 and now - self._progress_at >= WRITE_STALL_S
