"""One job's response as a byte stream with offsets: the sending and the receiving half.

Flow control and resumption are one mechanism. The sender keeps what is not acknowledged and never
has more than the window of it on its way; the receiver drops what it has already seen and refuses
gaps. After a lost link the sender rewinds to the offset that the receiver names.
"""

from collections import deque
from typing import Final

from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import AgentFrame, Chunk, JobEnd, JobStarted, LiveJob
from provider_agent.protocol.limits import CHUNK_BYTES

_MANY_PIECES: Final = 64
"""So many writes wait unsent only while the link is down or slow. From then on they are put
together: a server that sends byte by byte must not cost many times the window."""

_PIECE_BYTES: Final = 4096
"""How long such a piece becomes: its own overhead is then a hundredth."""


class SendStream:
    """The agent's half: what the server sent, until the coordinator has it safely.

    Offsets: ``acked <= sent <= written`` always; ``sent - acked <= window`` always. `write` never
    refuses: a caller that keeps writing into a `full` stream breaks the memory bound, so it pauses
    its source instead.
    """

    __slots__ = (
        "_end_sent",
        "_started_sent",
        "_unacked",
        "_unsent",
        "acked",
        "done",
        "end",
        "job_id",
        "sent",
        "started",
        "window",
        "written",
    )

    def __init__(self, job_id: bytes, window: int) -> None:
        self.job_id = job_id
        self.window = window
        self.acked = 0
        self.sent = 0
        self.written = 0
        self.started: JobStarted | None = None
        self.end: JobEnd | None = None
        self.done = False
        """The end frame is acknowledged; nothing is held any more."""
        self._started_sent = False
        self._end_sent = False
        self._unsent: deque[bytes | bytearray] = deque()
        self._unacked: deque[tuple[int, bytes]] = deque()

    def __repr__(self) -> str:
        state = "done" if self.done else "ended" if self.end else "open"
        return (
            f"<SendStream {self.job_id.hex()} {state} acked={self.acked} sent={self.sent} "
            f"written={self.written} window={self.window}>"
        )

    @property
    def full(self) -> bool:
        """Whether the source should pause: a window's worth is held already."""
        return self.written - self.acked >= self.window

    @property
    def below_low_water(self) -> bool:
        """Whether a paused source may go on: half the window is free again."""
        return self.written - self.acked <= self.window // 2

    @property
    def blocked(self) -> bool:
        """Whether only the coordinator can make it go on: by an acknowledgement."""
        return self.full or (self.end is not None and not self.done)

    @property
    def end_sent(self) -> bool:
        """Whether the end frame was sent; it may have to be sent again on another link."""
        return self._end_sent

    @property
    def ready(self) -> bool:
        """Whether `next_frames` would return something."""
        if self.done:
            return False
        if self.started is not None and not self._started_sent:
            return True
        if self._unsent:
            return self.sent - self.acked < self.window
        return self.end is not None and not self._end_sent

    def start(self, started: JobStarted) -> None:
        """The response has begun; its frame goes before the first byte. After the end: nothing."""
        if self.end is None:
            self.started = started

    def write(self, data: bytes) -> None:
        """Append what the server sent. Empty data is nothing, and so is what comes after the end.

        A cancelled job has its end at once, while its transport may still deliver a last read.
        """
        if data and self.end is None:
            self.written += len(data)
            if len(self._unsent) < _MANY_PIECES:
                self._unsent.append(data)
            else:
                self._put_together(data)

    def _put_together(self, data: bytes) -> None:
        last = self._unsent[-1]
        if isinstance(last, bytearray) and len(last) < _PIECE_BYTES:
            last += data
        else:
            self._unsent.append(bytearray(data))

    def finish(self, end: JobEnd) -> None:
        """The job's one end; its frame goes after the last byte. Later ends are ignored."""
        if self.end is None:
            self.end = end

    def next_frames(self, budget: int = CHUNK_BYTES) -> list[AgentFrame]:
        """What may be sent now, at most about `budget` bytes of data; it counts as sent."""
        frames: list[AgentFrame] = []
        if self.started is not None and not self._started_sent:
            self._started_sent = True
            frames.append(self.started)
        if self._unsent:
            data = self._take(min(budget, self.window - (self.sent - self.acked)))
            if data:
                frames.append(Chunk(self.job_id, self.sent, data))
                self._unacked.append((self.sent, data))
                self.sent += len(data)
        if self.end is not None and not self._unsent and not self._end_sent:
            self._end_sent = True
            frames.append(self.end)
        return frames

    def _take(self, room: int) -> bytes:
        """Remove up to `room` bytes from the front of what is unsent."""
        pieces: list[bytes | bytearray] = []
        while self._unsent and room > 0:
            piece = self._unsent.popleft()
            if len(piece) > room:
                self._unsent.appendleft(piece[room:])
                piece = piece[:room]
            pieces.append(piece)
            room -= len(piece)
        return b"".join(pieces)

    def acknowledge(self, offset: int, *, final: bool) -> None:
        """Forget what the coordinator has.

        An offset behind an earlier one is an old acknowledgement that says nothing new.

        Raises:
            ProtocolViolation: the offset was never sent, or `final` came before the end.
        """
        if offset > self.sent:
            raise ProtocolViolation("an acknowledgement of bytes that were never sent")
        if final and (not self._end_sent or offset != self.written):
            raise ProtocolViolation("a final acknowledgement of a job that has not ended")
        if offset > self.acked:
            self.acked = offset
            self._drop_acknowledged()
        if final:
            self.done = True

    def _drop_acknowledged(self) -> None:
        unacked = self._unacked
        while unacked and unacked[0][0] + len(unacked[0][1]) <= self.acked:
            unacked.popleft()
        if unacked and unacked[0][0] < self.acked:
            offset, data = unacked.popleft()
            unacked.appendleft((self.acked, data[self.acked - offset :]))

    def live_job(self) -> LiveJob:
        """What can be continued on another link."""
        return LiveJob(self.job_id, self.acked, self.sent)

    def rewind(self, offset: int) -> None:
        """Send again from `offset`: the link was lost and this is where the coordinator stands.

        It acknowledges nothing. What may be unacknowledged stays bounded by the window however
        often the link breaks.

        Raises:
            ProtocolViolation: those bytes are forgotten, or were never sent.
        """
        if not self.acked <= offset <= self.sent:
            raise ProtocolViolation("asked to continue from an offset that is not held")
        while self._unacked and self._unacked[-1][0] >= offset:
            self._unsent.appendleft(self._unacked.pop()[1])
        if self._unacked and self._unacked[-1][0] + len(self._unacked[-1][1]) > offset:
            start, data = self._unacked.pop()
            self._unacked.append((start, data[: offset - start]))
            self._unsent.appendleft(data[offset - start :])
        self.sent = offset
        self._started_sent = self._started_sent and offset > 0
        self._end_sent = False

    def drop_unsent(self) -> None:
        """Give up what was not sent yet, an unsent end included: another end can then go at once.

        Nothing happens once the end was sent.
        """
        if not self._end_sent:
            self.end = None
            self._unsent.clear()
            self.written = self.sent


class ReceiveStream:
    """The coordinator's half: puts chunks in order, once each, and says when to acknowledge.

    Attributes:
        received: every byte before this offset has arrived.
        consumed: every byte before this offset has been passed on.
        acked: what the sender has been told last.
        started: the response has begun.
    """

    __slots__ = ("acked", "consumed", "received", "started", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.received = 0
        self.consumed = 0
        self.acked = 0
        self.started = False

    def __repr__(self) -> str:
        return (
            f"<ReceiveStream acked={self.acked} consumed={self.consumed} "
            f"received={self.received} window={self.window}>"
        )

    def receive(self, chunk: Chunk) -> bytes:
        """The part of this chunk that is new; empty for a repetition.

        Raises:
            ProtocolViolation: a gap before it, no data in it, or more than the window allows.
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
        """`count` more bytes were passed on; returns the offset to acknowledge, when it is time.

        A quarter of the window is worth a frame: the sender never stops on a steady consumer.
        """
        self.consumed += count
        if self.consumed - self.acked < self.window // 4:
            return None
        self.acked = self.consumed
        return self.acked

    def resume(self, window: int) -> int:
        """Go on, on another link, from `received`; returns the offset to acknowledge first.

        Acknowledgements on the lost link may be lost as well, and a start that no byte followed is
        told again.
        """
        self.window = window
        self.started = self.started and self.received > 0
        self.acked = self.consumed
        return self.acked

    def check_end(self, end: JobEnd) -> None:
        """The sender says the response is complete.

        Raises:
            ProtocolViolation: bytes are missing, or more came than it counts.
        """
        if end.total_bytes != self.received:
            raise ProtocolViolation("an end whose length is not what arrived")
