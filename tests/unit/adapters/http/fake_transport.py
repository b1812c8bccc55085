"""A connection without a socket: the test plays the kernel."""

import asyncio
import socket
from typing import Self

from provider_agent.adapters.http.connection import READ_BYTES, HttpConnection
from provider_agent.adapters.http.exchange import Exchange
from tests.unit.adapters.http.recording_receiver import RecordingReceiver


class FakeTransport(asyncio.Transport):
    """Records what a connection does.

    Attributes:
        written: the bytes written so far.
        aborted: whether the connection was closed.
        reading: whether it reads.
        unsent: the number of bytes that count as unsent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False
        self.reading = True
        self.unsent = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.aborted
        self.written += data

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return self.unsent


class Wire:
    """A connection whose peer is the test.

    Attributes:
        connection: the connection.
        transport: its transport.
        server: a socket whose bytes only `HttpConnection.is_reusable` and `cancel` see.
    """

    def __init__(self) -> None:
        sock, self.server = socket.socketpair()
        sock.setblocking(False)
        self._sock = sock
        self.transport = FakeTransport()
        self.connection = HttpConnection(memoryview(bytearray(READ_BYTES)), sock, is_tls=False)
        self.connection.connection_made(self.transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()
        self._sock.close()
        self.server.close()

    def request(self, receiver: RecordingReceiver) -> Exchange:
        exchange = Exchange(receiver)
        self.connection.start(exchange, b"HEAD", b"BODY")
        return exchange

    def receive(self, data: bytes) -> None:
        """Deliver bytes, in reads as large as the buffer allows; like a closed transport, drop
        them after the connection was closed."""
        for at in range(0, len(data), READ_BYTES):
            if self.transport.aborted:
                return
            piece = data[at : at + READ_BYTES]
            buffer = self.connection.get_buffer(-1)
            buffer[: len(piece)] = piece
            self.connection.buffer_updated(len(piece))
            buffer[: len(piece)] = b"\xaa" * len(piece)  # as another connection would

    def lose(self, error: Exception | None) -> None:
        """Deliver the end of file, or an error, and close the transport."""
        if error is None and not self.transport.aborted:
            self.connection.eof_received()
        self.connection.connection_lost(error)
