"""One WebSocket with a JSON object in each text message, as the Use Pod dialect has them."""

import asyncio
import json
from typing import Any

from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed

Message = dict[str, Any]


class JsonConnection:
    """The test's end of a connection; `read` must run meanwhile.

    Attributes:
        messages: every received message, in order.
        closed: set when the connection has ended.
    """

    def __init__(self, socket: Connection | None = None) -> None:
        self.messages: list[Message] = []
        self.closed = asyncio.Event()
        self._socket = socket
        self._returned: set[int] = set()
        self._changed = asyncio.Event()

    @property
    def socket(self) -> Connection:
        assert self._socket is not None, "not connected yet"
        return self._socket

    async def next(self, *kinds: str, job_id: str | None = None) -> Message:
        """Wait for the oldest message of these types (and job) that was not returned yet."""
        while True:
            for index, message in enumerate(self.messages):
                is_wanted = message["type"] in kinds and job_id in (None, message.get("job_id"))
                if is_wanted and index not in self._returned:
                    self._returned.add(index)
                    return message
            await self.change(kinds)

    async def change(self, wanted: object) -> None:
        """Wait for another message; fail with what is missing if the connection has ended."""
        assert not self.closed.is_set(), f"closed without {wanted}: {self.messages}"
        self._changed.clear()
        await self._changed.wait()

    async def send(self, **message: object) -> None:
        """Send one message."""
        await self.socket.send(json.dumps(message))

    async def send_raw(self, message: bytes | str) -> None:
        """Send one WebSocket message with any content."""
        await self.socket.send(message)

    async def settle(self) -> None:
        """Wait until the peer has received everything sent so far, and its answers are here."""
        await (await self.socket.ping())

    def clear(self) -> None:
        """Forget the received messages."""
        self.messages.clear()
        self._returned.clear()

    def cut(self) -> None:
        """Abort the connection without a close handshake."""
        self.socket.transport.abort()

    async def read(self) -> None:
        """Read until the connection ends."""
        try:
            async for message in self.socket:
                assert isinstance(message, str), "the peer sent a binary message"
                self.messages.append(json.loads(message))
                self._changed.set()
        except ConnectionClosed:
            pass
        finally:
            self.closed.set()
            self._changed.set()
