"""One direction of one connection through a `FaultProxy`: forwards bytes, or fails as configured.

A state machine on transports, without tasks. Bytes wait in a queue until they are due and the
receiver accepts them. With `MAX_QUEUED_BYTES` in the queue the pipe stops reading, so a slow
receiver slows its sender down, as on a real network.
"""

import asyncio
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Final

MAX_QUEUED_BYTES: Final = 256 * 1024
"""The queue size at which a pipe stops reading. The last read may exceed it."""

PIECE_BYTES: Final = 16 * 1024
"""The most that one write forwards. The transport buffers the part that the kernel did not accept,
so after `stall` a pipe still delivers up to this many bytes."""

TICK_S: Final = 0.2
"""One write of a throttled pipe carries at most the bytes that its rate allows in this time."""

THROTTLED_QUEUE_S: Final = 0.5
"""A throttled pipe stops reading when its queue holds the bytes that take this time to forward."""

CUT_WITHIN_S: Final = 1.0
"""The longest that a cut waits for the sink to write its buffer, which a reset would discard."""

_EOF: Final = b""


def acknowledge_at_once(transport: asyncio.Transport) -> None:
    """Send the TCP acknowledgement of received bytes now, so that a virtual clock need not wait.

    Linux delays an acknowledgement by up to 200 ms, and a virtual clock may stand still meanwhile.
    The option applies to the bytes that have arrived (tcp(7)).
    """
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is not None and sys.platform == "linux":
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


class FaultProxyPipe:
    """One direction of a proxied connection. Offsets and counts are bytes since its start.

    Args:
        source: the transport that bytes come from.
        sink: the transport that they are written to.
        on_cut: called to cut the connection: when the sink has written every byte before the
            offset of `cut_at`, at the latest `CUT_WITHIN_S` after the last of them was forwarded;
            also when a FIN cannot be sent because the receiver has reset the connection.
        on_end: called after the receiver was sent a FIN.

    Attributes:
        delay_s: added to the latency of each byte; bytes already queued keep the earlier delay.
        bytes_per_s: the bandwidth; None: unlimited.
        forwarded: bytes written so far.
    """

    def __init__(
        self,
        source: asyncio.Transport,
        sink: asyncio.Transport,
        *,
        on_cut: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self.delay_s = 0.0
        self.bytes_per_s: float | None = None
        self.forwarded = 0
        self._source = source
        self._sink = sink
        self._on_cut = on_cut
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued_bytes = 0
        self._sink_free_at = 0.0
        self._stalled = False
        self._sink_full = False
        self._ended = False
        self._cutting = False
        self._cut_at: int | None = None
        self._bit_flips: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return (
            f"<FaultProxyPipe forwarded={self.forwarded} queued={self._queued_bytes} "
            f"stalled={self._stalled} ended={self._ended} delay_s={self.delay_s} "
            f"bytes_per_s={self.bytes_per_s}>"
        )

    @property
    def ended(self) -> bool:
        """Whether this direction forwards nothing more."""
        return self._ended

    # --- faults ----------------------------------------------------------------------------------

    def stall(self) -> None:
        """Forward nothing and read nothing until `resume`."""
        self._stalled = True
        self._update_reading()

    def resume(self) -> None:
        """Continue after `stall`."""
        self._stalled = False
        self._update_reading()
        self._pump()

    def cut_at(self, count: int) -> None:
        """Cut the connection after `count` bytes are forwarded; at once if they already are."""
        self._cut_at = count
        if self.forwarded >= count:
            self._cut()

    def corrupt_at(self, offset: int, mask: int = 0x01) -> None:
        """Flip bits of the byte at an offset that is not forwarded yet."""
        assert offset >= self.forwarded, f"byte {offset} is already forwarded: {self!r}"
        self._bit_flips[offset] = mask

    def half_close(self) -> None:
        """End this direction: the receiver sees a FIN, and queued bytes are lost."""
        self._end()
        if not self._source.is_closing():
            self._source.resume_reading()  # to notice when the sender closes

    # --- for the connection ----------------------------------------------------------------------

    def start(self) -> None:
        """Start to read."""
        self._update_reading()

    def feed(self, data: bytes) -> None:
        """Accept bytes from the source."""
        acknowledge_at_once(self._source)
        if not self._ended:
            self._queued_bytes += len(data)
            self._queue.append((self._loop.time() + self.delay_s, data))
            self._update_reading()
            self._pump()

    def feed_eof(self) -> None:
        """Accept the end of the source's bytes."""
        if not self._ended:
            self._queue.append((self._loop.time() + self.delay_s, _EOF))
            self._pump()

    def set_sink_full(self, full: bool) -> None:
        """Record whether the sink buffers unwritten bytes; if not, continue to forward or cut."""
        self._sink_full = full
        if self._cutting and not full:
            self._on_cut()
        else:
            self._pump()

    def discard(self) -> None:
        """Forward nothing more; neither side is notified."""
        self._ended = True
        self._queue.clear()
        self._queued_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._source.pause_reading()

    # --- inside ----------------------------------------------------------------------------------

    def _update_reading(self) -> None:
        if self._source.is_closing() or self._ended:
            return
        most = float(MAX_QUEUED_BYTES)
        if self.bytes_per_s is not None:
            most = min(most, self.bytes_per_s * THROTTLED_QUEUE_S)
        if self._stalled or self._queued_bytes >= most:
            self._source.pause_reading()
        else:
            self._source.resume_reading()

    def _on_timer(self) -> None:
        self._timer = None
        self._pump()

    def _pump(self) -> None:
        """Forward what is due, and set a timer for the rest."""
        while self._queue and not (self._stalled or self._sink_full or self._timer):
            due = max(self._queue[0][0], self._sink_free_at)
            if due > self._loop.time():
                self._timer = self._loop.call_at(due, self._on_timer)
                return
            piece = self._next_piece()
            if piece == _EOF:
                self._end()
            else:
                self._forward(piece)
                self._update_reading()

    def _next_piece(self) -> bytes:
        due, data = self._queue.popleft()
        rate = self.bytes_per_s
        size = PIECE_BYTES if rate is None else min(PIECE_BYTES, max(1, int(rate * TICK_S)))
        if len(data) > size:
            self._queue.appendleft((due, data[size:]))
        piece = data[:size]
        if rate is not None:
            self._sink_free_at = self._loop.time() + len(piece) / rate
        return piece

    def _forward(self, piece: bytes) -> None:
        self._queued_bytes -= len(piece)
        reaches_cut = self._cut_at is not None and self.forwarded + len(piece) >= self._cut_at
        if reaches_cut and self._cut_at is not None:
            piece = piece[: self._cut_at - self.forwarded]
        if piece:
            self._sink.write(self._corrupted(piece))
            self.forwarded += len(piece)
        if reaches_cut:
            self._cut()

    def _corrupted(self, piece: bytes) -> bytes:
        offsets = [at for at in self._bit_flips if 0 <= at - self.forwarded < len(piece)]
        if not offsets:
            return piece
        corrupted = bytearray(piece)
        for offset in offsets:
            corrupted[offset - self.forwarded] ^= self._bit_flips.pop(offset)
        return bytes(corrupted)

    def _end(self) -> None:
        if self._ended:
            return
        self.discard()
        try:
            if not self._sink.is_closing():
                self._sink.write_eof()
        except OSError:  # the receiver has reset the connection; connection_lost is still to come
            self._on_cut()
        else:
            self._on_end()

    def _cut(self) -> None:
        """Cut once the sink has written its buffer, which a reset would discard."""
        self.discard()
        if self._sink_full and not self._sink.is_closing():
            self._cutting = True
            self._timer = self._loop.call_later(CUT_WITHIN_S, self._on_cut)
        else:
            self._on_cut()
