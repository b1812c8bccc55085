"""How much data one message to the coordinator holds. Pure.

Nothing can overtake what is in a message: neither a heartbeat nor another job. On a fast link a big
message is gone at once and shares its cost among many chunks; on a slow one, small messages let
others in between.
"""

from typing import Final

from provider_agent.protocol.limits import BATCH_BYTES, KIB

MIN_MESSAGE_BYTES: Final = 8 * KIB
"""Smaller would pay for frames and system calls more than for data."""

SLOW_S: Final = 0.1
"""A message that takes so long to leave makes the next one wait noticeably: send half as much."""

FAST_S: Final = 0.02
"""One that takes no longer than this may be followed by one of twice the size."""


class MessageSize:
    """Adapts to how long messages take to leave this process.

    Attributes:
        limit_bytes: where the next message is full.
    """

    __slots__ = ("limit_bytes",)

    def __init__(self) -> None:
        self.limit_bytes = BATCH_BYTES

    def __repr__(self) -> str:
        return f"<MessageSize {self.limit_bytes}>"

    def took(self, seconds: float) -> None:
        """The last message needed so long."""
        if seconds > SLOW_S:
            self.limit_bytes = max(MIN_MESSAGE_BYTES, self.limit_bytes // 2)
        elif seconds < FAST_S and self.limit_bytes < BATCH_BYTES:
            self.limit_bytes = min(BATCH_BYTES, self.limit_bytes * 2)
