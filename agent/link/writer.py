"""Sends what the outbox holds, many frames in one message, without a task.

The outbox calls the writer when it has a frame, and the writer sends in the next turn of the event
loop: what arrives within one turn shares a message. While the write buffer is full, frames wait in
the outbox, where control frames overtake the others.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.link.coalescing import Coalescing
from provider_agent.agent.link.frame_log import log_sent
from provider_agent.agent.link.link_connection import LinkConnection
from provider_agent.agent.link.message_encoder import MessageEncoder
from provider_agent.websocket.message_size import MessageSize
from provider_agent.websocket.write_progress import WriteProgress

MAX_MESSAGES_PER_TURN: Final = 16
"""On a fast link, the write buffer never becomes full: then reads and other tasks have a turn after
this many messages, two megabytes."""


class LinkWriter:
    """The sending half of an open link.

    Args:
        connection: the open connection; nothing else sends messages on it.
        outbox: the frames to send.
        encoder: encodes the frames.
        coalescing: lets output accumulate under load.
        progress: records the writes that wait for space in the write buffer.
        is_text: whether messages are text.
        on_written: called after the frames of a batch were written; None: nothing is called.

    Attributes:
        failed: completed with the error that stopped the writer.
    """

    def __init__(
        self,
        connection: LinkConnection,
        outbox: Outbox,
        encoder: MessageEncoder,
        coalescing: Coalescing,
        progress: WriteProgress,
        *,
        is_text: bool = False,
        on_written: Callable[[], None] | None = None,
    ) -> None:
        self._connection = connection
        self._is_text = is_text
        self._on_written = on_written
        self._outbox = outbox
        self._encoder = encoder
        self._coalescing = coalescing
        self._progress = progress
        self._size = MessageSize()
        self._loop = asyncio.get_running_loop()
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self._is_stopped = False
        self._is_busy = False
        """Whether `_send` is scheduled, or will be when the write buffer has space."""
        self._blocked_at: float | None = None
        """The time since when the write buffer is full; None: it has space."""

    def start(self) -> None:
        """Send what the outbox holds and receives, until `stop`."""
        self._outbox.on_ready = self._schedule
        self._connection.on_writable = self._unblock
        self._schedule()

    def stop(self) -> None:
        """Send nothing more; unsent frames remain in the outbox."""
        self._is_stopped = True
        self._outbox.on_ready = self._connection.on_writable = _ignore
        if self._blocked_at is not None:
            self._progress.end(self._loop.time())

    def _schedule(self) -> None:
        if not self._is_busy:
            self._is_busy = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        """Send what is ready, then rest if it is due."""
        if self._blocked_at is not None:
            return  # scheduled by a frame that was queued while the last messages were encoded
        self._is_busy = False
        if self._is_stopped or not self._connection.is_open:
            return
        try:
            self._send_messages()
        except Exception as error:  # noqa: BLE001 - the link raises it
            self._is_stopped = True
            self.failed.set_exception(error)

    def _send_messages(self) -> None:
        """Send until nothing is ready, the write buffer is full, or others must have a turn."""
        count = size = 0
        for _ in range(MAX_MESSAGES_PER_TURN):
            frames = self._outbox.next_batch(self._size.limit_bytes)
            if not frames:
                break
            messages = self._encoder.encode(frames)
            if messages:
                self._connection.write_messages(messages, is_text=self._is_text)
                size += sum(map(len, messages))
            log_sent(frames)
            if self._on_written is not None:
                self._on_written()
            count += len(frames)
            if self._connection.paused:
                self._is_busy = True
                self._blocked_at = self._loop.time()
                self._progress.begin(self._blocked_at)
                return
            self._size.adapt(0.0)
            # asyncio logs a warning for each further write after the connection was lost.
            if not self._outbox.has_frames or self._connection.transport.is_closing():
                break
        if self._outbox.has_frames:
            self._schedule()
        # What the transport has not written yet must not wait for the rest.
        elif (
            count
            and self._coalescing.is_due(count, size)
            and not self._connection.transport.get_write_buffer_size()
        ):
            self._coalescing.rest()

    def _unblock(self) -> None:
        """Continue after the write buffer was full."""
        if self._blocked_at is not None:
            now = self._loop.time()
            self._progress.end(now)
            self._size.adapt(now - self._blocked_at)
            self._blocked_at = None
            self._is_busy = False
            self._schedule()


def _ignore() -> None:
    """Stand in for a callback after the end."""
