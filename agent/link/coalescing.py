"""Lets the output of many jobs accumulate, so that more of it shares each wake-up.

The cost of relaying is mostly that of wake-ups: a poll, a read for each server, and one write. So
under load the thread of the event loop sleeps for a moment after sending. A timer would not help:
the loop would still wake up for each read (ADR 19).
"""

import time
from collections.abc import Callable
from typing import Final

from provider_agent.protocol.limits import KIB

MIN_FRAMES_PER_REST: Final = 1.0
"""The loop rests if it sends at least this many frames in the time of a rest: twice as much output
then shares a wake-up. A few streams send less, and are not delayed."""

RATE_WINDOW_S: Final = 0.02
"""The time over which the rate is measured."""

MAX_WORK_RESTS: Final = 2.0
MAX_BYTES: Final = 32 * KIB
"""Enough output accumulates without a rest if the work since the last one, or since the last
message, took longer than this many rests, or if this turn of the event loop has sent more bytes. A
pause without work counts as work."""

AFTER_REQUEST_S: Final = 0.01
"""There is no rest for this long after a part of a request has arrived: its job needs several turns
of the event loop until the server has received it."""


class Coalescing:
    """Decides whether the event loop rests after it has sent messages.

    Args:
        rest_s: how long it rests; 0: never.
        clock: monotonic, in seconds.
        sleep: blocks the thread for a number of seconds.
    """

    def __init__(
        self,
        rest_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rest_s = rest_s
        self._clock = clock
        self._sleep = sleep
        self._starting_until = 0.0
        self._continued_at = 0.0
        """The time at which the last messages or the last rest ended."""
        self._is_busy = False
        self._frames = 0
        """The frames that were sent since `_frames_since`."""
        self._frames_since = clock()

    def request_received(self) -> None:
        """Record that a part of a request has arrived."""
        self._starting_until = self._clock() + AFTER_REQUEST_S

    def is_due(self, frames: int, size: int) -> bool:
        """Whether the event loop should rest now; each call also measures the rate.

        Args:
            frames: the number of frames that this turn of the event loop has sent.
            size: the size of their messages, in bytes.
        """
        now = self._clock()
        work_s = now - self._continued_at
        self._continued_at = now
        self._frames += frames
        duration_s = now - self._frames_since
        if duration_s >= RATE_WINDOW_S:
            rate = self._frames / duration_s
            self._is_busy = rate * self._rest_s >= MIN_FRAMES_PER_REST
            self._frames = 0
            self._frames_since = now
        return (
            self._is_busy
            and work_s <= MAX_WORK_RESTS * self._rest_s
            and size <= MAX_BYTES
            and now >= self._starting_until
        )

    def rest(self) -> None:
        """Block the event loop's thread."""
        self._sleep(self._rest_s)
        self._continued_at = self._clock()
