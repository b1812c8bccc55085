"""One connection to an HTTP server, and the exchange that runs on it.

After each read, one plain call passes the bytes of the body to the receiver. No task, future or
timer is used per read.

All connections of a client read into one buffer: a read is parsed before the next one begins, and
the parser copies what it keeps.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from httptools import HttpParserError

from provider_agent.adapters.http import failures
from provider_agent.adapters.http.client import ResponseReceiver
from provider_agent.adapters.http.exchange import Exchange
from provider_agent.adapters.http.response_parser import MAX_HEAD_BYTES, ResponseParser
from provider_agent.protocol.limits import KIB

READ_BYTES: Final = 64 * KIB
"""The size of the buffer: a busy stream needs few reads, and one read does not block the loop. The
library's own buffer of 256 KiB would save one percent of the CPU time of an event."""

UNREAD_BYTES: Final = 256 * KIB
"""How much is read of a cancelled response that was paused: the usage is in its last kilobytes,
and a server that has ended a stream rarely has more than this on the way."""

SMALL_BODY_BYTES: Final = 64 * KIB
"""A request body up to this size is copied behind its head, for one write."""

_TLS_ALERT: Final = b"\x15"
"""The first byte of what a TLS server may answer to plain HTTP (RFC 8446, section 5.1)."""

_LAST_CHUNK: Final = b"0\r\n\r\n"
_FEW_BYTES: Final = 16 * KIB
"""More unread bytes are parsed only if they contain the end of the response. To parse 256 KiB takes
milliseconds, for each of the jobs of a lost link."""


class HttpConnection(asyncio.BufferedProtocol):
    """A connection that runs one exchange after the other.

    An idle connection that receives anything, also the end of file, closes itself.

    Args:
        buffer: the buffer to read into.
        sock: the connected socket.
        is_tls: whether the socket carries TLS.

    Attributes:
        is_open: whether the connection can still be used, as far as the event loop has noticed.
        idle_since: the loop time of the end of the last exchange.
    """

    __slots__ = (
        "_buffer",
        "_exchange",
        "_is_tls",
        "_parser",
        "_paused",
        "_pieces",
        "_quiet_bytes",
        "_receive",
        "_sock",
        "_started",
        "_transport",
        "idle_since",
        "is_open",
    )

    _transport: asyncio.Transport

    def __init__(self, buffer: memoryview, sock: socket.socket, *, is_tls: bool) -> None:
        self.is_open = False
        self.idle_since = 0.0
        self._buffer = buffer
        self._sock = sock
        self._is_tls = is_tls
        self._exchange: Exchange | None = None
        self._receive: Callable[[bytes], None] = _ignore
        self._parser = ResponseParser()
        self._pieces = self._parser.pieces
        self._paused = False
        self._started = False
        """Whether the receiver has the head."""
        self._quiet_bytes = 0
        """The bytes since the start of the exchange, or since the last read that completed the head
        or had data."""

    def __repr__(self) -> str:
        state = "closed" if not self.is_open else "idle" if self._exchange is None else "busy"
        return f"<HttpConnection {state}{' paused' if self._paused else ''}>"

    # --- for the client --------------------------------------------------------------------------

    def start(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """Send a request on an idle connection; `exchange` ends with its response.

        Args:
            exchange: the exchange, which has not been started yet.
            head: the request line and headers, with the empty line.
            body: the body.
        """
        self._parser.reset()
        self._quiet_bytes = 0
        self._started = False
        self._exchange = exchange
        self._receive = exchange.receiver.data_received
        exchange.connection = self
        if len(body) <= SMALL_BODY_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def is_reusable(self) -> bool:
        """Whether the server has neither closed the connection nor sent anything on it.

        Asks the kernel: the event loop may not have noticed yet.
        """
        if not self.is_open:
            return False
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        return False

    def cancel(self, exchange: Exchange) -> None:
        """Close the connection, unless `exchange` has ended.

        If it is paused and carries no TLS, its receiver gets what has arrived meanwhile, up to
        `UNREAD_BYTES`.
        """
        if self._exchange is not exchange:
            return
        if self._paused and not self._is_tls:
            self._receive_unread(exchange.receiver)
        self.end_exchange(None, reusable=False)

    def close(self) -> None:
        """Close the connection at once, without waiting for unsent bytes."""
        if self.is_open:
            self.is_open = False
            self._transport.abort()
            self._parser.close()

    def pause_reading(self) -> None:
        """Stop reading."""
        if not self._paused and self.is_open:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Continue reading."""
        if self._paused and self.is_open:
            self._paused = False
            self._transport.resume_reading()

    # --- asyncio.BufferedProtocol ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = transport  # type: ignore[assignment]
        self.is_open = True

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Return the client's buffer."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parse one read, and pass its data to the receiver (the hot path)."""
        exchange = self._exchange
        if exchange is None:
            self.close()
            return
        parser = self._parser
        try:
            parser.feed(self._buffer[:nbytes])
            if parser.changed:
                self._advance(exchange)
            elif pieces := self._pieces:
                data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                pieces.clear()
                self._quiet_bytes = 0
                self._receive(data)
            else:
                self._quiet_bytes += nbytes
                if self._quiet_bytes > MAX_HEAD_BYTES:
                    self.end_exchange(failures.malformed_response())
        except HttpParserError as error:
            self._quiet_bytes += nbytes
            self._parser_failed(exchange, error, self._buffer[:nbytes])
        except Exception as error:  # noqa: BLE001 - the task of the exchange raises it
            self.end_exchange(error)

    def eof_received(self) -> None:
        """End the response. The transport closes itself."""
        self._lost(None, complete=self._parser.ends_with_connection)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the response, if the end of file has not ended it already."""
        self._lost(exc, complete=exc is None and self._parser.ends_with_connection)

    # --- the response ----------------------------------------------------------------------------

    def _advance(self, exchange: Exchange) -> None:
        """Pass on what a read has completed: the head, or the whole response."""
        parser = self._parser
        parser.changed = False
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._quiet_bytes = 0
        if not self._started and parser.head is not None:
            self._started = True
            exchange.receiver.response_started(parser.head, exchange)
        if data and self._exchange is exchange:
            self._receive(data)
        if parser.complete and self._exchange is exchange:
            self.end_exchange(None, reusable=parser.keep_alive)

    def _parser_failed(self, exchange: Exchange, error: Exception, read: memoryview) -> None:
        """Pass on what precedes the malformed bytes. If that is the whole response, it is valid."""
        self._parser.keep_alive = False
        is_alert = bytes(read[:1]) == _TLS_ALERT and not self._started and not self._is_tls
        failure: Exception = failures.tls_only() if is_alert else failures.malformed_response()
        failure.__cause__ = error
        try:
            self._advance(exchange)
        except Exception as raised:  # noqa: BLE001 - the task of the exchange raises it
            failure = raised
        if self._exchange is exchange:
            self.end_exchange(failure)

    def _lost(self, error: Exception | None, *, complete: bool) -> None:
        """End the exchange after the connection was lost."""
        if self._exchange is None:
            self.close()
        elif complete:
            self.end_exchange(None)
        else:
            failure = failures.broken_response() if self._started else failures.no_response()
            failure.__cause__ = error
            self.end_exchange(failure)

    def end_exchange(self, error: Exception | None, *, reusable: bool = False) -> None:
        """End the current exchange.

        Args:
            error: why it failed; None: it succeeded, or was stopped.
            reusable: whether the server keeps the connection open. The connection then becomes
                idle, unless a part of the request is still unsent.
        """
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        exchange.has_response = self._started or self._quiet_bytes > 0
        self._receive = _ignore
        transport = self._transport
        if reusable and not transport.is_closing() and not transport.get_write_buffer_size():
            self.resume_reading()
            self.idle_since = asyncio.get_running_loop().time()
        else:
            self.close()
        exchange.end(error)

    def _receive_unread(self, receiver: ResponseReceiver) -> None:
        with suppress(OSError, HttpParserError):
            data = self._sock.recv(UNREAD_BYTES)
            if len(data) <= _FEW_BYTES or data.endswith(_LAST_CHUNK) or not self._parser.is_chunked:
                self._parser.feed(data)
        if self._pieces:
            receiver.unread_received(b"".join(self._pieces))
            self._pieces.clear()


def _ignore(_data: bytes) -> None:
    """Stand in for the receiver while no exchange runs."""
