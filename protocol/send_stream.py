"""The agent's half of one job's response: a byte stream with offsets.

Flow control and resumption are one mechanism. The sender keeps unacknowledged bytes, and never has
more than a window of them in flight; the receiver (`receive_stream`) drops repeated bytes and
rejects gaps. After a lost link the sender rewinds to the offset that the receiver names.
"""

import hashlib

from provider_agent.protocol.byte_pieces import SEPARATE_PIECES, merge_small, take
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
        "_not_held",
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
        self._not_held = 0
        """How many bytes after `acked` another process sent; see `continue_from`."""
        self._unsent: list[bytes] = []
        self._unacked: list[bytes] = []
        """The sent bytes from `acked + _not_held` to `sent`."""

    def __repr__(self) -> str:
        state = "done" if self.done else "ended" if self.end else "open"
        return (
            f"<SendStream {self.job_id.hex()} {state} acked={self.acked} sent={self.sent} "
            f"written={self.written} window={self.window}>"
        )

    def continue_from(self, *, acked: int, sent: int) -> None:
        """Continue a response of which another process sent the first `sent` bytes.

        Those before `acked` are acknowledged. The receiver has the others too, and this stream does
        not hold them: it cannot rewind to them.
        """
        self.acked = acked
        self.sent = self.written = self._highest_sent = sent
        self._not_held = sent - acked
        self._started_sent = sent > 0

    @property
    def first_held(self) -> int:
        """The lowest offset that `rewind` accepts."""
        return self.acked + self._not_held

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

    def write(self, data: bytes) -> bool:
        """Append bytes of the response, and return whether the stream is `full`.

        Ignored after the end: a cancelled job ends at once, but its transport may still deliver one
        more read.
        """
        if not data or self.end is not None:
            return False
        unsent = self._unsent
        unsent.append(data)
        if len(unsent) % SEPARATE_PIECES == 0:
            merge_small(unsent)
        self.written = written = self.written + len(data)
        return written - self.acked >= self.window

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

    def next_chunk(self, budget: int) -> Chunk | None:
        """Return the next frame if it is a chunk of exactly one write (the hot path).

        Returns:
            The chunk, which counts as sent; None: nothing has changed, call `next_frames`.
        """
        unsent = self._unsent
        if len(unsent) != 1 or not self._started_sent or self.end is not None:
            return None
        data = unsent[0]
        size = len(data)
        if size > budget or self.sent + size - self.acked > self.window:
            return None
        unsent.clear()
        return self._send(data)

    def next_frames(self, budget: int = CHUNK_BYTES) -> list[AgentFrame]:
        """Return frames that may be sent now, with at most `budget` bytes; they count as sent."""
        frames: list[AgentFrame] = []
        if self.started is not None and not self._started_sent:
            self._started_sent = True
            frames.append(self.started)
        if self._unsent:
            data = self._pop_unsent(min(budget, self.window - (self.sent - self.acked)))
            if data:
                frames.append(self._send(data))
        if self.end is not None and not self._unsent and not self._end_sent:
            self._end_sent = self._end_ever_sent = True
            frames.append(self.end)
        return frames

    def _pop_unsent(self, limit: int) -> bytes:
        """Remove and return up to `limit` bytes from the front of the unsent ones."""
        return b"".join(take(self._unsent, limit)) if limit > 0 else b""

    def _send(self, data: bytes) -> Chunk:
        """Return the chunk of the next bytes, which count as sent."""
        offset = self.sent
        self.sent = offset + len(data)
        unacked = self._unacked
        unacked.append(data)
        if len(unacked) % SEPARATE_PIECES == 0:
            merge_small(unacked)
        return Chunk(self.job_id, offset, data)

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
        not_held = min(count, self._not_held)
        self._not_held -= not_held
        dropped = take(self._unacked, count - not_held)
        if self._acked_hash is not None:
            for piece in dropped:
                self._acked_hash.update(piece)

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
        """The end of what was sent and is not acknowledged; four bytes or more, if possible."""
        tail = b""
        for piece in reversed(self._unacked):
            tail = piece + tail
            if len(tail) >= 4:
                break
        return tail

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
        first_held = self.first_held
        if not first_held <= offset <= self.sent:
            raise ProtocolViolation("a resumption from an offset that is not held")
        kept = take(self._unacked, offset - first_held)
        self._unsent[:0] = self._unacked
        self._unacked = kept
        self._highest_sent = max(self._highest_sent, self.sent)
        self.sent = offset
        self._started_sent = self._started_sent and offset > 0
        self._end_sent = False
