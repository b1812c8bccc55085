"""One direction of one connection through a `FaultProxy`: bytes in, the same bytes out, or not.

A state machine on transports, without tasks: what comes in waits until it is due, and goes out
while nothing is in its way. It holds `HELD_BYTES` and one read at most; beyond that it stops
reading, so that a sender feels what the receiver feels.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

HELD_BYTES: Final = 256 * 1024
"""Bytes on their way: what a delayed wire carries at once."""

PIECE_BYTES: Final = 16 * 1024
"""Handed on at once. What the receiver's kernel had no room for still arrives after a stall."""

TICK_S: Final = 0.2
"""A throttled wire lets through so much time's worth of bytes at once."""

THROTTLED_S: Final = 0.5
"""How much time's worth of bytes waits inside a throttled wire."""

_END: Final = b""


class FaultProxyPipe:
    """One direction. Offsets and counts are in bytes since the connection's beginning.

    Args:
        source: where bytes come from.
        sink: where they go to.
        on_cut: called when `cut_at` is reached and everything before it was handed over.
        on_over: called when this direction has ended.

    Attributes:
        delay_s: how long every byte takes; what is under way keeps its time.
        bytes_per_s: how many pass in a second; None: all that come.
        passed: how many have passed.
    """

    def __init__(
        self,
        source: asyncio.Transport,
        sink: asyncio.Transport,
        *,
        on_cut: Callable[[], None],
        on_over: Callable[[], None],
    ) -> None:
        self.delay_s = 0.0
        self.bytes_per_s: float | None = None
        self.passed = 0
        self._source = source
        self._sink = sink
        self._on_cut = on_cut
        self._on_over = on_over
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._held = 0
        self._free_at = 0.0
        self._stalled = False
        self._sink_full = False
        self._over = False
        self._cut_at: int | None = None
        self._flips: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return (
            f"<FaultProxyPipe passed={self.passed} held={self._held} stalled={self._stalled} "
            f"over={self._over} delay_s={self.delay_s} bytes_per_s={self.bytes_per_s}>"
        )

    @property
    def over(self) -> bool:
        """Whether nothing will pass any more."""
        return self._over

    # --- for tests -------------------------------------------------------------------------------

    def stall(self) -> None:
        """Let nothing pass, and take nothing in, until `resume`."""
        self._stalled = True
        self._set_reading()

    def resume(self) -> None:
        """Go on after `stall`."""
        self._stalled = False
        self._set_reading()
        self._pump()

    def cut_at(self, count: int) -> None:
        """Cut the connection as soon as so many bytes have passed; the next one never will."""
        self._cut_at = count
        if self.passed >= count:
            self._cut()

    def corrupt_at(self, offset: int, mask: int = 0x01) -> None:
        """Flip bits of the byte at an offset that has not passed yet."""
        assert offset >= self.passed, f"byte {offset} is through already: {self!r}"
        self._flips[offset] = mask

    def half_close(self) -> None:
        """End this direction: the receiver sees FIN. What had not passed yet is lost."""
        self._end()
        if not self._source.is_closing():
            self._source.resume_reading()  # to notice when the sender goes away

    # --- for the connection ----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to take bytes in."""
        self._set_reading()

    def feed(self, data: bytes) -> None:
        """Bytes from the source."""
        if not self._over:
            self._held += len(data)
            self._waiting.append((self._loop.time() + self.delay_s, data))
            self._set_reading()
            self._pump()

    def feed_end(self) -> None:
        """The source will send no more."""
        if not self._over:
            self._waiting.append((self._loop.time() + self.delay_s, _END))
            self._pump()

    def sink_is_full(self, full: bool) -> None:
        """The receiver takes no more for now, or takes again."""
        self._sink_full = full
        self._pump()

    def abandon(self) -> None:
        """Let nothing pass any more, without telling anybody."""
        self._over = True
        self._waiting.clear()
        self._held = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._source.pause_reading()

    # --- inside ----------------------------------------------------------------------------------

    def _set_reading(self) -> None:
        if self._source.is_closing() or self._over:
            return
        rate = self.bytes_per_s
        most = HELD_BYTES if rate is None else min(HELD_BYTES, rate * THROTTLED_S)
        if self._stalled or self._held >= most:
            self._source.pause_reading()
        else:
            self._source.resume_reading()

    def _wake(self) -> None:
        self._timer = None
        self._pump()

    def _pump(self) -> None:
        """Hand on whatever may go now, and set a timer for what may go later."""
        while self._waiting and not (self._stalled or self._sink_full or self._timer):
            due = max(self._waiting[0][0], self._free_at)
            if due > self._loop.time():
                self._timer = self._loop.call_at(due, self._wake)
                return
            piece = self._next_piece()
            if piece == _END:
                self._end()
            else:
                self._hand_on(piece)
                self._set_reading()

    def _next_piece(self) -> bytes:
        due, data = self._waiting.popleft()
        rate = self.bytes_per_s
        size = PIECE_BYTES if rate is None else min(PIECE_BYTES, max(1, int(rate * TICK_S)))
        if len(data) > size:
            self._waiting.appendleft((due, data[size:]))
        piece = data[:size]
        if rate is not None:
            self._free_at = self._loop.time() + len(piece) / rate
        return piece

    def _hand_on(self, piece: bytes) -> None:
        self._held -= len(piece)
        reaches_cut = self._cut_at is not None and self.passed + len(piece) >= self._cut_at
        if reaches_cut and self._cut_at is not None:
            piece = piece[: self._cut_at - self.passed]
        if piece:
            self._sink.write(self._corrupted(piece))
            self.passed += len(piece)
        if reaches_cut:
            self._cut()

    def _corrupted(self, piece: bytes) -> bytes:
        hit = [at for at in self._flips if self.passed <= at < self.passed + len(piece)]
        if not hit:
            return piece
        wrong = bytearray(piece)
        for offset in hit:
            wrong[offset - self.passed] ^= self._flips.pop(offset)
        return bytes(wrong)

    def _end(self) -> None:
        if self._over:
            return
        self.abandon()
        try:
            if not self._sink.is_closing():
                self._sink.write_eof()
        except OSError:  # the receiver has reset the connection, and nobody has told us yet
            self._on_cut()
        else:
            self._on_over()

    def _cut(self) -> None:
        self.abandon()
        self._cut_when_handed_over(turns=1000)

    def _cut_when_handed_over(self, turns: int) -> None:
        """uvloop writes at the end of a turn, and an abort would throw away what it has not."""
        if turns and self._sink.get_write_buffer_size() and not self._sink.is_closing():
            self._loop.call_soon(self._cut_when_handed_over, turns - 1)
        else:
            self._on_cut()
