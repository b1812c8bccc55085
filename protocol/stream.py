"""One job's response as a byte stream with offsets: its sending and its receiving half.

Flow control and resumption are one mechanism. The sender keeps unacknowledged bytes, and never has
more than a window of them in flight; the receiver drops repeated bytes and rejects gaps. After a
lost link the sender rewinds to the offset that the receiver names.
"""

import hashlib
from collections import deque
from typing import Final

from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import (
    AgentFrame,
    Chunk,
    JobEnd,
    JobStarted,
    LiveJob,
    ResponseFrame,
)
from provider_agent.protocol.limits import CHUNK_BYTES

_MAX_SEPARATE_WRITES: Final = 64
"""How many unsent writes are held as separate objects; more accumulate only while the link is down
or slow. Further writes are merged: otherwise the objects of a response that is written byte by byte
would take many times the window in memory. Sent bytes are merged always."""

_MERGED_BYTES: Final = 4096
"""Smaller pieces are merged until they reach this size: the overhead of an object is then one
percent."""


def _append(pieces: deque[bytes | bytearray], data: bytes) -> None:
    """Append bytes, merged with the last piece if both are small."""
    if len(data) >= _MERGED_BYTES:
        pieces.append(data)
        return
    last = pieces[-1] if pieces else None
    if isinstance(last, bytearray) and len(last) < _MERGED_BYTES:
        last += data
    else:
        pieces.append(bytearray(data))


class SendStream:
    """The agent's half: keeps the server's bytes until the coordinator acknowledges them.

    Invariants: ``acked <= sent <= written``, and no byte is sent that would make ``sent - acked``
    exceed `window`. `write` always accepts its data: to bound memory, the caller pauses its source
    while the stream is `full`. A `hashed` stream computes the SHA-256 of its bytes.

    Whatever was ever sent may be acknowledged, even after a rewind: a coordinator may have received
    more than the offset that it named.

    Attributes:
        acked: every byte before this offset is acknowledged.
        sent: every byte before this offset has been sent; a rewind lowers it.
        written: the number of bytes of the response so far.
        started: the frame that precedes the first byte; None before the response starts.
        end: the job's end; None while the job runs.
    """

    __slots__ = (
        "_acked_hash",
        "_end_ever_sent",
        "_end_sent",
        "_highest_sent",
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

    def __init__(self, job_id: bytes, window: int, *, hashed: bool = False) -> None:
        self.job_id = job_id
        self.window = window
        self._acked_hash = hashlib.sha256() if hashed else None
        """The hash of the bytes that are acknowledged and no longer held."""
        self.acked = 0
        self.sent = 0
        self.written = 0
        self.started: JobStarted | None = None
        self.end: JobEnd | None = None
        self.done = False
        """Whether the end frame is acknowledged; the stream then holds no data."""
        self._started_sent = False
        self._end_sent = False
        self._end_ever_sent = False
        self._highest_sent = 0
        self._unsent: deque[bytes | bytearray] = deque()
        self._unacked: deque[bytes | bytearray] = deque()
        """The sent bytes from `acked` to `sent`."""

    def __repr__(self) -> str:
        state = "done" if self.done else "ended" if self.end else "open"
        return (
            f"<SendStream {self.job_id.hex()} {state} acked={self.acked} sent={self.sent} "
            f"written={self.written} window={self.window}>"
        )

    @property
    def full(self) -> bool:
        """Whether the source should pause: the stream holds a window of bytes."""
        return self.written - self.acked >= self.window

    @property
    def below_low_water(self) -> bool:
        """Whether a paused source may continue: half of the window is free."""
        return self.written - self.acked <= self.window // 2

    @property
    def blocked(self) -> bool:
        """Whether the stream needs an acknowledgement: of its end, or to free half of its window.

        A paused source continues only when half of the window is free, so a source may stay paused
        although the window is no longer full.
        """
        return not self.below_low_water or (self.end is not None and not self.done)

    @property
    def unsent(self) -> bool:
        """Whether bytes of the response wait to be sent."""
        return bool(self._unsent)

    @property
    def end_sent(self) -> bool:
        """Whether the end frame was sent on the current link."""
        return self._end_sent

    @property
    def ready(self) -> bool:
        """Whether `next_frames` would return a frame."""
        if self.done:
            return False
        if self.started is not None and not self._started_sent:
            return True
        if self._unsent:
            return self.sent - self.acked < self.window
        return self.end is not None and not self._end_sent

    def start(self, started: JobStarted) -> None:
        """Add the start of the response, which is sent before any byte. Ignored after the end."""
        if self.end is None:
            self.started = started

    def write(self, data: bytes) -> None:
        """Append bytes of the response. Ignored after the end.

        A cancelled job ends at once, but its transport may still deliver one more read.
        """
        if data and self.end is None:
            self.written += len(data)
            if len(self._unsent) < _MAX_SEPARATE_WRITES:
                self._unsent.append(data)
            else:
                _append(self._unsent, data)

    def finish(self, end: JobEnd) -> None:
        """Add the job's end, which is sent after the last byte. A second end is ignored."""
        if self.end is None:
            self.end = end

    def drop_unsent(self) -> None:
        """Discard what was not sent, bytes and end, so that another end can be sent at once.

        Without effect when the end was sent on the current link.
        """
        if not self._end_sent:
            self.end = None
            self._end_ever_sent = False
            self._unsent.clear()
            self.written = self.sent

    def withdraw(self, frame: ResponseFrame) -> None:
        """Forget the end, because `frame` could not be sent; the caller then adds another end.

        A frame cannot be sent if it cannot be encoded, or exceeds the coordinator's message limit.
        If `frame` is `JobStarted`, it and the bytes of the response are dropped too.

        Args:
            frame: a frame that `next_frames` returned.
        """
        self.end = None
        self._end_sent = self._end_ever_sent = False
        if isinstance(frame, JobStarted):
            self.started = None
            self._started_sent = False
            self._unsent.clear()
            self._unacked.clear()
            self.written = self.sent = self._highest_sent = 0

    def next_frames(self, budget: int = CHUNK_BYTES) -> list[AgentFrame]:
        """Return frames that may be sent now, with at most `budget` bytes; they count as sent."""
        frames: list[AgentFrame] = []
        if self.started is not None and not self._started_sent:
            self._started_sent = True
            frames.append(self.started)
        if self._unsent:
            data = self._pop_unsent(min(budget, self.window - (self.sent - self.acked)))
            if data:
                frames.append(Chunk(self.job_id, self.sent, data))
                _append(self._unacked, data)
                self.sent += len(data)
        if self.end is not None and not self._unsent and not self._end_sent:
            self._end_sent = self._end_ever_sent = True
            frames.append(self.end)
        return frames

    def _pop_unsent(self, limit: int) -> bytes:
        """Remove and return up to `limit` bytes from the front of the unsent ones."""
        first = self._unsent[0] if self._unsent else b""
        if len(self._unsent) == 1 and len(first) <= limit and isinstance(first, bytes):
            self._unsent.clear()  # the usual case, without a copy
            return first
        pieces: list[bytes | bytearray] = []
        while self._unsent and limit > 0:
            piece = self._unsent.popleft()
            if len(piece) > limit:
                self._unsent.appendleft(piece[limit:])
                piece = piece[:limit]
            pieces.append(piece)
            limit -= len(piece)
        return b"".join(pieces)

    def acknowledge(self, offset: int, *, final: bool) -> None:
        """Forget the bytes before `offset`. An offset below an earlier one has no effect.

        Raises:
            ProtocolViolation: bytes before `offset` were never sent, or `final` came before the
                end or with another offset than its `total_bytes`.
        """
        if offset > max(self.sent, self._highest_sent):
            raise ProtocolViolation("an acknowledgement of bytes that were never sent")
        if final and not self._end_ever_sent:
            raise ProtocolViolation("a final acknowledgement before the end was sent")
        if final and offset != self.written:
            raise ProtocolViolation("a final acknowledgement with another offset than total_bytes")
        offset = min(offset, self.written)  # `drop_unsent` may have dropped what was sent earlier
        if offset > self.sent:  # after a rewind: an earlier link sent these bytes
            self._unacked.append(self._pop_unsent(offset - self.sent))
            self.sent = offset
        if offset > self.acked:
            self._drop_acknowledged(offset - self.acked)
            self.acked = offset
        if final:
            self.done = True

    def _drop_acknowledged(self, count: int) -> None:
        """Drop the first `count` unacknowledged bytes."""
        while count:
            data = self._unacked.popleft()
            if len(data) > count:
                self._unacked.appendleft(data[count:])
                data = data[:count]
            if self._acked_hash is not None:
                self._acked_hash.update(data)
            count -= len(data)

    def sha256(self) -> bytes | None:
        """Return the hash of all `written` bytes; None if the stream is not hashed.

        Acknowledged bytes are hashed when they are dropped, the others by this method. So a rewind
        hashes no byte twice, and the bytes that `drop_unsent` discarded are not hashed.
        """
        if self._acked_hash is None:
            return None
        whole = self._acked_hash.copy()
        for sent in self._unacked:
            whole.update(sent)
        for unsent in self._unsent:
            whole.update(unsent)
        return whole.digest()

    @property
    def tail(self) -> bytes:
        """The last bytes sent; b"" if they are acknowledged, and no longer held."""
        return bytes(self._unacked[-1]) if self._unacked else b""

    def live_job(self) -> LiveJob:
        """Return the offsets from which another link can continue.

        `request_offset` remains 0: the caller sets it.
        """
        return LiveJob(self.job_id, self.acked, self.sent, ended=self.end is not None)

    def rewind(self, offset: int) -> None:
        """Send again from `offset`, on a new link.

        The bytes before `offset` do not become acknowledged: the coordinator has received them, but
        may not have passed them on. Otherwise the agent could send one more window after each lost
        link, and the coordinator's buffer would grow beyond the window.

        Raises:
            ProtocolViolation: the bytes from `offset` are no longer held, or were never sent.
        """
        if not self.acked <= offset <= self.sent:
            raise ProtocolViolation("a resumption from an offset that is not held")
        count = self.sent - offset
        while count:
            data = self._unacked.pop()
            if len(data) > count:
                self._unacked.append(data[:-count])
                data = data[-count:]
            self._unsent.appendleft(data)
            count -= len(data)
        self._highest_sent = max(self._highest_sent, self.sent)
        self.sent = offset
        self._started_sent = self._started_sent and offset > 0
        self._end_sent = False


class ReceiveStream:
    """The coordinator's half: accepts each byte once, in order, and decides when to acknowledge.

    Attributes:
        received: every byte before this offset has arrived.
        consumed: every byte before this offset has been passed on.
        acked: the offset of the latest acknowledgement.
        started: whether the response has started.
        window: the most bytes after `acked` that the agent may send.
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
