"""One connection through a `FaultProxy`: two sockets, and a pipe in each direction."""

import asyncio
import socket
import struct
from typing import Final, cast

from tests.kit.fault_proxy_pipe import FaultProxyPipe

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class ProxiedConnection:
    """One connection through the proxy.

    Attributes:
        upstream: carries bytes from the connecting side to the target.
        downstream: carries bytes from the target to the connecting side.
        closed: set when both sockets are closed.
    """

    def __init__(self, client: "ProxyEndpoint", target: "ProxyEndpoint") -> None:
        self._endpoints = client, target
        callbacks = {"on_cut": self.cut, "on_end": self._pipe_ended}
        self.upstream = FaultProxyPipe(client.transport, target.transport, **callbacks)
        self.downstream = FaultProxyPipe(target.transport, client.transport, **callbacks)
        self.closed = asyncio.Event()
        self._blackholed = False
        client.join(self, reads=self.upstream, writes=self.downstream)
        target.join(self, reads=self.downstream, writes=self.upstream)

    def __repr__(self) -> str:
        return (
            f"<ProxiedConnection upstream={self.upstream!r} downstream={self.downstream!r} "
            f"blackholed={self._blackholed}>"
        )

    @property
    def pipes(self) -> tuple[FaultProxyPipe, FaultProxyPipe]:
        """Both directions."""
        return self.upstream, self.downstream

    def cut(self) -> None:
        """Reset both sockets."""
        self._discard()
        for endpoint in self._endpoints:
            endpoint.reset()

    def blackhole(self) -> None:
        """Forward nothing more, not even a FIN or a reset; each side has a half-open connection."""
        self._blackholed = True
        self._discard()

    def stall(self) -> None:
        """Stall both directions."""
        for pipe in self.pipes:
            pipe.stall()

    def resume(self) -> None:
        """Continue both directions after `stall`."""
        if not self._blackholed:
            for pipe in self.pipes:
                pipe.resume()

    def start(self) -> None:
        """Start to forward; called by the proxy."""
        for pipe in self.pipes:
            pipe.start()
        for endpoint in self._endpoints:
            endpoint.release()
        if any(endpoint.closed for endpoint in self._endpoints):
            self.cut()
            self.endpoint_lost(None)

    def endpoint_lost(self, error: Exception | None) -> None:
        """Called when a socket is closed; after an error, reset the other socket."""
        if all(endpoint.closed for endpoint in self._endpoints):
            self._discard()
            self.closed.set()
        elif error is not None and not self._blackholed:
            self.cut()

    def _pipe_ended(self) -> None:
        """Close both sockets once both directions have ended without an error."""
        if all(pipe.ended for pipe in self.pipes):
            for endpoint in self._endpoints:
                endpoint.transport.close()

    def _discard(self) -> None:
        for pipe in self.pipes:
            pipe.discard()


class ProxyEndpoint(asyncio.Protocol):
    """The proxy's socket towards one of the two sides of a connection."""

    def __init__(self) -> None:
        self.closed = False
        self.transport: asyncio.Transport
        self._connection: ProxiedConnection | None = None
        self._reads: FaultProxyPipe | None = None
        self._full = False
        self._writes: FaultProxyPipe | None = None
        # uvloop may read before `pause_reading` takes effect; `release` forwards those bytes.
        self._early_data = bytearray()
        self._early_eof = False

    def join(
        self, connection: ProxiedConnection, *, reads: FaultProxyPipe, writes: FaultProxyPipe
    ) -> None:
        self._connection, self._reads, self._writes = connection, reads, writes

    def release(self) -> None:
        """Forward what arrived before `join`."""
        if self._reads is not None and self._early_data:
            self._reads.feed(bytes(self._early_data))
        if self._reads is not None and self._early_eof:
            self._reads.feed_eof()

    def reset(self) -> None:
        if not self.closed and not self.transport.is_closing():
            end: socket.socket = self.transport.get_extra_info("socket")
            reset_on_close(end)
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self.transport.pause_reading()
        self.transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        if self._reads is not None:
            self._reads.feed(data)
        else:
            self._early_data += data

    def eof_received(self) -> bool:
        if self._reads is not None:
            self._reads.feed_eof()
        else:
            self._early_eof = True
        return True  # the other direction stays open

    def pause_writing(self) -> None:
        self._full = True
        if self._writes is not None:
            self._writes.set_sink_full(True)

    def resume_writing(self) -> None:
        self._full = False
        # Not at once: if the transport is closed during this callback, asyncio calls its
        # `_call_connection_lost` twice.
        asyncio.get_running_loop().call_soon(self._writing_resumed)

    def _writing_resumed(self) -> None:
        if self._writes is not None and not self._full:
            self._writes.set_sink_full(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._connection is not None:
            self._connection.endpoint_lost(exc)


def reset_on_close(end: socket.socket) -> None:
    """Make `close` send a reset instead of a FIN."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
