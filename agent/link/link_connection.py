"""The WebSocket of a link: messages are written without waiting, and memory is bounded."""

from collections.abc import Callable
from typing import Final

from websockets.asyncio.client import ClientConnection
from websockets.protocol import State

from provider_agent.protocol.limits import MIB

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
        """Whether `write_message` may be called."""
        return self.protocol.state is State.OPEN

    def write_message(self, message: bytes) -> None:
        """Write a binary message without waiting for space in the write buffer.

        `send` would cost several times as much: it creates a coroutine and an asynchronous context
        for each message.
        """
        self.protocol.send_binary(message)
        self.send_data()

    def write_text(self, message: bytes) -> None:
        """Write a text message, given as UTF-8, in the same way."""
        self.protocol.send_text(message)
        self.send_data()

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
