"""An accepted TCP connection, closed if its peer does not authenticate in time.

The class stands between asyncio's transport and aiohttp's protocol, because aiohttp does
not limit the number of connections, and limits the time before a request only by its keep-alive
timeout.
"""

import asyncio
from collections.abc import Callable
from typing import Final, cast

from aiohttp import StreamReader, web

from provider_agent.coordinator.connections.client_address import ProxyNetworks
from provider_agent.coordinator.connections.limits import ConnectionLimits
from provider_agent.protocol.limits import KIB

CLIENT_READ_BYTES: Final = 16 * KIB
"""The most bytes of a client that are read at once; also aiohttp's `read_bufsize`, which limits how
far the parser is ahead of the handler. A chunk of a body costs aiohttp about 3 µs and may have only
6 bytes, so that a read of 256 KiB would block the event loop for over 100 ms."""

AGENT_READ_BYTES: Final = 64 * KIB
"""The most bytes of an agent that are read at once. Its messages have no such chunks, and larger
reads cost less."""

UNAUTHENTICATED_S: Final = 10.0
"""How long a connection may stay open before a request with a valid key or an upgrade. Headers fit
in one packet, so this is enough on a slow network too."""


class GuardedConnection(asyncio.BufferedProtocol):
    """One connection; forwards everything to the protocol that serves it.

    Args:
        protocol: serves the connection.
        limits: the open connections.
        exempt: proxies, each of which may have any number of connections.

    Attributes:
        is_authenticated: whether the peer has authenticated.
        is_writing_paused: whether the write buffer is full.
        on_writable: called when the write buffer has space again; None to call nothing.
    """

    def __init__(
        self,
        protocol: asyncio.Protocol,
        limits: ConnectionLimits["GuardedConnection"],
        exempt: ProxyNetworks,
    ) -> None:
        self._protocol = protocol
        self._limits = limits
        self._exempt = exempt
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._read_bytes = CLIENT_READ_BYTES
        self._timer: asyncio.TimerHandle | None = None
        self._is_refused = False
        self._head_tail = b""
        self._head_ended = False
        self._counts_all = False
        self._in_handshake = False
        self._bytes_after_head = 0
        self._body: StreamReader | None = None
        self._body_bytes = 0
        self._extra_bytes = 0
        self._is_handling = False
        self._is_pipelined = False
        self.is_authenticated = False
        self.is_writing_paused = False
        self.on_writable: Callable[[], None] | None = None

    def __repr__(self) -> str:
        state = "refused" if self._is_refused else "waiting" if self._timer else "served"
        return f"<GuardedConnection {state} {self._transport!r}>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection; close it, or older ones, if there are too many."""
        # uvloop's transports are no subclass of `asyncio.Transport`.
        self._transport = cast("asyncio.Transport", transport)
        peer = peer_address(transport)
        address = None if self._exempt.contain(peer) else peer
        loop = asyncio.get_running_loop()
        for connection in self._limits.add(self, address, loop.time()):
            self._is_refused |= connection is self
            connection.abort()
        if self._is_refused:
            return
        self._timer = loop.call_later(UNAUTHENTICATED_S, self.abort)
        self._protocol.connection_made(transport)

    def abort(self) -> None:
        """Close the connection without sending what is still buffered."""
        if self._transport is not None:
            self._transport.abort()

    def begin_handshake(self) -> None:
        """Stop the timer, because the caller limits the agent's handshake; count all bytes.

        The peer may already have authenticated, with a client's key.
        """
        self._stop_timer()
        self._in_handshake = True
        self._read_bytes = AGENT_READ_BYTES
        self.count_all_bytes()

    def count_all_bytes(self) -> None:
        """Count all bytes after the headers too, until the peer has authenticated.

        For bytes that aiohttp keeps in memory: incomplete WebSocket messages, and what follows the
        last chunk of a body. aiohttp reads a body itself only as fast as the handler consumes it.
        """
        self._counts_all = True
        if not self._limits.may_hold(self, self._bytes_after_head):
            self.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def authenticated(self) -> None:
        """Note that the peer has authenticated with a key, or has been admitted as an agent."""
        if self._in_handshake:
            self._in_handshake = False
            self._set_extra_bytes(0)
        if not self.is_authenticated:
            self.is_authenticated = True
            self._stop_timer()
            self._limits.authenticated(self)

    def begin_request(self, body: StreamReader) -> None:
        """Note that a request is handled from now on, and count the bytes beside its body."""
        self._body, self._body_bytes, self._is_handling = body, body.total_bytes, True
        self._set_extra_bytes(0)

    def end_request(self) -> None:
        """Note that the request has been handled."""
        self._is_handling = False

    @property
    def must_close(self) -> bool:
        """Whether the connection must end with its current response.

        It must if the peer has not authenticated: its timeout would close the connection later,
        perhaps while a proxy sends another request over it. It also must if the peer has sent
        further bytes before the response: aiohttp would keep up to 32 requests in memory.
        """
        return not self.is_authenticated or self._is_pipelined

    def abort_request(self) -> None:
        """Close the connection if its request is being handled, or has an incomplete body.

        aiohttp would wait for both.
        """
        if self._body is not None and (self._is_handling or not self._body.is_eof()):
            self.abort()

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002
        """Return the buffer for the next read.

        The buffer limits the read. `asyncio.Protocol` would receive up to 256 KiB.
        """
        self._buffer = bytearray(self._read_bytes)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Forward received bytes, unless the peer sends too many that stay in memory."""
        data, self._buffer = bytes(memoryview(self._buffer)[:nbytes]), bytearray()
        self._data_received(data)

    def _data_received(self, data: bytes) -> None:
        if not self.is_authenticated:
            if self._may_receive(data):
                self._protocol.data_received(data)
            else:
                self.abort()
        elif self._in_handshake:
            self._set_extra_bytes(self._extra_bytes + len(data))
            self._protocol.data_received(data)
        elif self._counts_all or self._body is None:  # an agent, whose messages have a limit
            self._protocol.data_received(data)
        else:
            self._receive_from_client(data, self._body)

    def _receive_from_client(self, data: bytes, body: StreamReader) -> None:
        if self._is_handling and body.is_eof() and data.strip(b"\r\n"):
            self._is_pipelined = True
        self._protocol.data_received(data)
        has_progress = body.total_bytes > self._body_bytes
        self._body_bytes = body.total_bytes
        # If the body goes on, the bytes before were headers of its chunks (chunked encoding), which
        # aiohttp does not keep.
        self._set_extra_bytes(0 if has_progress else self._extra_bytes + len(data))

    def _set_extra_bytes(self, size: int) -> None:
        """Count the bytes that aiohttp may keep beside the body.

        They are trailers, further requests, and everything behind malformed data.
        """
        self._extra_bytes = size
        if not self._limits.may_hold_extra(self, size):
            self.abort()

    def _may_receive(self, data: bytes) -> bool:
        if self._counts_all:
            return self._limits.may_hold(self, len(data))
        if not self._head_ended:
            # aiohttp skips empty lines before a request, and keeps incomplete headers in memory.
            head = self._head_tail + data if self._head_tail else data.lstrip(b"\r\n")
            self._head_tail = head[-3:]
            self._head_ended = b"\r\n\r\n" in head
            if not self._head_ended:
                return self._limits.may_hold(self, len(data))
        self._bytes_after_head += len(data)
        return True

    def eof_received(self) -> bool | None:
        """Forward the end of the peer's bytes."""
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        """Note and forward that the write buffer is full."""
        self.is_writing_paused = True
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Note and forward that the write buffer has space."""
        self.is_writing_paused = False
        self._protocol.resume_writing()
        if self.on_writable is not None:
            self.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        self._limits.remove(self)
        self._transport = None
        if not self._is_refused:
            self._protocol.connection_lost(exc)


def connection_factory(
    serve: Callable[[], asyncio.Protocol],
    limits: ConnectionLimits[GuardedConnection],
    exempt: ProxyNetworks,
) -> Callable[[], GuardedConnection]:
    """Return a factory for `loop.create_server` that wraps each protocol made by `serve`."""
    return lambda: GuardedConnection(serve(), limits, exempt)


def connection_of(request: web.Request) -> GuardedConnection | None:
    """Return the connection of a request; None if it is lost."""
    protocol = None if request.transport is None else request.transport.get_protocol()
    return protocol if isinstance(protocol, GuardedConnection) else None


def peer_address(transport: asyncio.BaseTransport) -> str:
    """Return the network address of a connection's peer, without the port."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) and peer else ""
