"""Adapts the size of messages to the speed of the link. No I/O.

Nothing can overtake a message, neither a heartbeat nor another job's data. On a fast link, a large
message is sent at once and shares its overhead among many chunks; on a slow link, small messages
let other frames in between.
"""

from typing import Final

from provider_agent.protocol.limits import BATCH_BYTES, KIB

MIN_MESSAGE_BYTES: Final = 8 * KIB
"""Smaller messages would cost too much in frame headers and system calls."""

SLOW_S: Final = 0.1
"""A message that takes longer delays the next one noticeably: halve the limit."""

FAST_S: Final = 0.02
"""A message that takes less leaves time for a larger one: double the limit."""


class MessageSize:
    """The limit of the next message's size.

    Attributes:
        limit_bytes: the current limit.
    """

    __slots__ = ("limit_bytes",)

    def __init__(self) -> None:
        self.limit_bytes = BATCH_BYTES

    def __repr__(self) -> str:
        return f"<MessageSize {self.limit_bytes}>"

    def adapt(self, duration_s: float) -> None:
        """Adapt the limit to how long the last message took to leave this process."""
        if duration_s > SLOW_S:
            self.limit_bytes = max(MIN_MESSAGE_BYTES, self.limit_bytes // 2)
        elif duration_s < FAST_S and self.limit_bytes < BATCH_BYTES:
            self.limit_bytes = min(BATCH_BYTES, self.limit_bytes * 2)
