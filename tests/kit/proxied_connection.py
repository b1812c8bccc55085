"""One connection through a `FaultProxy`: two pipes between two sockets, which fail together."""

import asyncio
import socket
import struct
from typing import Final, cast

from tests.kit.fault_proxy_pipe import FaultProxyPipe

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class ProxiedConnection:
    """One connection through the proxy.

    Attributes:
        out: what the dialler says.
        back: what the dialler hears.
        closed: both ends are over.
    """

    def __init__(self, near: "ProxyEndpoint", far: "ProxyEndpoint") -> None:
        self._near, self._far = near, far
        ends = {"on_cut": self.cut, "on_over": self._pipe_over}
        self.out = FaultProxyPipe(near.transport, far.transport, **ends)
        self.back = FaultProxyPipe(far.transport, near.transport, **ends)
        self.closed = asyncio.Event()
        self._vanished = False
        near.join(self, reads=self.out, writes=self.back)
        far.join(self, reads=self.back, writes=self.out)

    def __repr__(self) -> str:
        return f"<ProxiedConnection out={self.out!r} back={self.back!r} vanished={self._vanished}>"

    @property
    def pipes(self) -> tuple[FaultProxyPipe, FaultProxyPipe]:
        """Both directions."""
        return self.out, self.back

    def cut(self) -> None:
        """Reset both ends. They notice soon after."""
        self._abandon()
        for plug in (self._near, self._far):
            plug.reset()

    def vanish(self) -> None:
        """Half-open: both ends stay open and nothing passes, not even that the other went away."""
        self._vanished = True
        self._abandon()

    def stall(self) -> None:
        """Stall both directions."""
        for pipe in self.pipes:
            pipe.stall()

    def resume(self) -> None:
        """Let both directions go on after `stall`."""
        if not self._vanished:
            for pipe in self.pipes:
                pipe.resume()

    def start(self) -> None:
        """Let the first byte pass; called by the proxy."""
        for pipe in self.pipes:
            pipe.start()
        for plug in (self._near, self._far):
            plug.release()
        if self._near.gone or self._far.gone:
            self.cut()
            self.plug_lost(None)

    def plug_lost(self, error: Exception | None) -> None:
        """One end is gone: so is the other, in the same way."""
        if self._near.gone and self._far.gone:
            self._abandon()
            self.closed.set()
        elif error is not None and not self._vanished:
            self.cut()

    def _pipe_over(self) -> None:
        """After both directions ended in peace, nothing keeps the connection open."""
        if self.out.over and self.back.over:
            for plug in (self._near, self._far):
                plug.transport.close()

    def _abandon(self) -> None:
        for pipe in self.pipes:
            pipe.abandon()


class ProxyEndpoint(asyncio.Protocol):
    """One end of a connection: the proxy's socket towards one of the two sides."""

    def __init__(self) -> None:
        self.gone = False
        self.transport: asyncio.Transport
        self._connection: ProxiedConnection | None = None
        self._reads: FaultProxyPipe | None = None
        self._writes: FaultProxyPipe | None = None
        # uvloop reads before it can be told not to: this came before there was a wire.
        self._early = bytearray()
        self._early_end = False

    def join(
        self, connection: ProxiedConnection, *, reads: FaultProxyPipe, writes: FaultProxyPipe
    ) -> None:
        self._connection, self._reads, self._writes = connection, reads, writes

    def release(self) -> None:
        if self._reads is not None and self._early:
            self._reads.feed(bytes(self._early))
        if self._reads is not None and self._early_end:
            self._reads.feed_end()

    def reset(self) -> None:
        if not self.gone and not self.transport.is_closing():
            end: socket.socket = self.transport.get_extra_info("socket")
            reset_on_close(end)
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's has no such base
        self.transport.pause_reading()
        self.transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        if self._reads is not None:
            self._reads.feed(data)
        else:
            self._early += data

    def eof_received(self) -> bool:
        if self._reads is not None:
            self._reads.feed_end()
        else:
            self._early_end = True
        return True  # the other direction may go on

    def pause_writing(self) -> None:
        if self._writes is not None:
            self._writes.sink_is_full(True)

    def resume_writing(self) -> None:
        if self._writes is not None:
            self._writes.sink_is_full(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        if self._connection is not None:
            self._connection.plug_lost(exc)


def reset_on_close(end: socket.socket) -> None:
    """Closing this socket is to send a reset instead of a courteous end."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
