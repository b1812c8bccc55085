"""The coordinator's half of one job's response: a byte stream with offsets.

The other half, and how both work together: `provider_agent.protocol.send_stream`.
"""

from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import Chunk, JobEnd


class ReceiveStream:
    """The coordinator's half: accepts each byte once, in order, and decides when to acknowledge.

    Attributes:
        received: every byte before this offset has arrived.
        consumed: every byte before this offset has been passed on.
        acked: the offset of the latest acknowledgement.
        started: whether the response has started.
        window: the most bytes after `acked` that the agent may send.
        holds_end: whether the end of the response is acknowledged only when the application says
            that it is delivered.
    """

    __slots__ = ("acked", "consumed", "holds_end", "received", "started", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.received = 0
        self.consumed = 0
        self.acked = 0
        self.started = False
        self.holds_end = False

    def __repr__(self) -> str:
        return (
            f"<ReceiveStream acked={self.acked} consumed={self.consumed} "
            f"received={self.received} window={self.window}>"
        )

    def continue_from(self, *, consumed: int, received: int) -> None:
        """Continue a response whose first `received` bytes arrived at another coordinator."""
        self.received = received
        self.consumed = self.acked = consumed
        self.started = received > 0

    def receive(self, chunk: Chunk) -> bytes:
        """Return the new bytes of a chunk; empty when all of them are repeated.

        Raises:
            ProtocolViolation: the chunk follows a gap, is empty or exceeds the window.
        """
        offset, data = chunk.offset, chunk.data
        if not data:
            raise ProtocolViolation("a chunk without data")
        if offset > self.received:
            raise ProtocolViolation("a gap in a response")
        end = offset + len(data)
        if end - self.acked > self.window:
            raise ProtocolViolation("more data than the window allows")
        if end <= self.received:
            return b""
        fresh = data if offset == self.received else data[self.received - offset :]
        self.received = end
        return fresh

    def consume(self, count: int) -> int | None:
        """Record that `count` more bytes were passed on; return an offset to acknowledge, if due.

        One acknowledgement per quarter of the window keeps the sender from pausing while the
        consumer reads steadily.
        """
        self.consumed += count
        return self.acknowledge() if self.consumed - self.acked >= self.window // 4 else None

    def acknowledge(self) -> int | None:
        """Return the offset to acknowledge; None if what was passed on is acknowledged already."""
        if self.acked == self.consumed:
            return None
        self.acked = self.consumed
        return self.acked

    def resume(self, window: int) -> int:
        """Continue from `received` on a new link; return the offset to acknowledge first.

        That acknowledgement replaces those that were lost with the old link. If no byte has been
        received, the agent sends `JobStarted` again.
        """
        self.window = window
        self.started = self.started and self.received > 0
        self.acked = self.consumed
        return self.acked

    def skip_to(self, offset: int) -> None:
        """Treat every byte before `offset` as received and passed on; for a cancelled job."""
        self.received = self.consumed = max(self.received, offset)
        self.started = self.started or self.received > 0

    def check_end(self, end: JobEnd) -> None:
        """Check an end frame against the bytes that arrived.

        Raises:
            ProtocolViolation: its `total_bytes` differs from `received`.
        """
        if end.total_bytes != self.received:
            raise ProtocolViolation("an end whose total_bytes differs from the bytes that arrived")
