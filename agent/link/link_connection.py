"""The WebSocket of a link: messages are written without waiting, and memory is bounded."""

import os
from collections.abc import Callable, Sequence
from typing import Final

from websockets.asyncio.client import ClientConnection
from websockets.protocol import State

from provider_agent.protocol.limits import MIB
from provider_agent.websocket.client_frames import encode_messages

MAX_UNSENT_BYTES: Final = 16 * MIB
"""Larger than the write buffer plus the agent's largest message. Only a peer that sends pings
without reading the pongs can exceed it; the link is then aborted to bound memory."""


class LinkConnection(ClientConnection):
    """A WebSocket that counts the bytes that it receives, and bounds those that wait to be sent.

    Attributes:
        received_bytes: how many bytes arrived since the connection opened.
        on_writable: called when the write buffer has space again after it was full (`paused`).
    """

    received_bytes = 0
    on_writable: Callable[[], None] = staticmethod(lambda: None)

    @property
    def is_open(self) -> bool:
        """Whether `write_messages` may be called."""
        return self.protocol.state is State.OPEN

    def write_messages(self, messages: Sequence[bytes], *, is_text: bool) -> None:
        """Write messages, together, without waiting for space in the write buffer.

        `send` would cost several times as much: it creates a coroutine and an asynchronous context
        for each message. The messages are not compressed, as `dial` negotiates no extension.

        Args:
            messages: the payloads; those of text messages are UTF-8.
            is_text: whether they are text messages; otherwise they are binary.
        """
        self.transport.write(encode_messages(messages, is_text=is_text, random_bytes=os.urandom))

    def resume_writing(self) -> None:
        """Call `on_writable`: the write buffer has space again."""
        super().resume_writing()
        self.on_writable()

    def data_received(self, data: bytes) -> None:
        """Count the bytes, pass them on, and abort the link if too many wait to be sent."""
        self.received_bytes += len(data)
        super().data_received(data)
        if self.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.transport.abort()
