"""A TCP proxy on loopback that fails on demand, like toxiproxy but inside the test's process.

Every connection has two `FaultProxyPipe`s, `upstream` (to the target) and `downstream` (from the
target). Each can be stalled, delayed, throttled, corrupted, cut at a byte, or closed without the
other. A whole `ProxiedConnection` can be cut or blackholed. `FaultProxy.on_connection` configures
connections before their first byte.

Faults are plain method calls. They work on asyncio, on uvloop and in virtual time. The proxy
has a task only for a new connection that it does not forward yet.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from types import TracebackType
from typing import Final, Self

from tests.kit.proxied_connection import ProxiedConnection, ProxyEndpoint, reset_on_close

HOST: Final = "127.0.0.1"

SOCKET_BUFFER_BYTES: Final = 16 * 1024
"""Kernel buffers of the proxy's sockets: small, so that both sides notice a stall soon."""

SEGMENT_BYTES: Final = 1448
"""The segment size of Ethernet. With loopback's segments of 64 KiB, the free part of a receive
window is often smaller than a segment, and the kernel sends less than a segment only after up to
200 ms of real time."""

MAX_NEW_CONNECTIONS: Final = 64
"""The most connections kept for `next_connection`: a soak run, which never calls it, would
otherwise keep all of them."""


class ConnectPolicy(Enum):
    """What the proxy does with a new connection."""

    FORWARD = auto()
    """Connect it to the target."""
    RESET = auto()
    """Accept it, and reset it after its first byte."""


class FaultProxy:
    """The proxy; an async context manager that keeps its port, also after `refuse`.

    Args:
        target: the port on loopback that connections are forwarded to.

    Attributes:
        target: the port on loopback that new connections are forwarded to.
        connect_policy: what happens to a new connection.
        on_connection: called with each new connection before its first byte is forwarded.
        accepted_at: when each connection was accepted, by the loop's clock.
        port: where the proxy listens.
    """

    def __init__(self, target: int = 0) -> None:
        self.target = target
        self.connect_policy = ConnectPolicy.FORWARD
        self.on_connection: Callable[[ProxiedConnection], None] = lambda _connection: None
        self.accepted_at: list[float] = []
        self.port = 0
        self._connections: list[ProxiedConnection] = []
        self._reserved: socket.socket | None = None
        """Never listens: it keeps the port while there is no listener, because of `refuse`."""
        self._listener: socket.socket | None = None
        self._new: deque[ProxiedConnection] = deque(maxlen=MAX_NEW_CONNECTIONS)
        self._new_connection = asyncio.Event()
        self._connecting: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        policy = "refuse" if self._listener is None else self.connect_policy.name.lower()
        return f"<FaultProxy {self.port}->{self.target} {policy} {self.connections}>"

    @property
    def authority(self) -> str:
        """The `host:port` of the proxy, the authority of an agent that dials the proxy."""
        return f"{HOST}:{self.port}"

    @property
    def connections(self) -> list[ProxiedConnection]:
        """Every connection with an open socket, blackholed ones included."""
        self._connections = [one for one in self._connections if not one.closed.is_set()]
        return self._connections

    async def next_connection(self) -> ProxiedConnection:
        """Wait for the next connection; each is returned once, in order."""
        while not self._new:
            self._new_connection.clear()
            await self._new_connection.wait()
        return self._new.popleft()

    def refuse(self) -> None:
        """Refuse new connections, like a port without a listener."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def listen(self) -> None:
        """Accept connections again after `refuse`."""
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.listen(256)
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def cut(self) -> None:
        """Cut every connection."""
        for connection in self.connections:
            connection.cut()

    def blackhole(self) -> None:
        """Blackhole every connection."""
        for connection in self.connections:
            connection.blackhole()

    async def __aenter__(self) -> Self:
        self._reserved = _bound(0)
        self.port = self._reserved.getsockname()[1]
        self.listen()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.refuse()
        assert self._reserved is not None
        self._reserved.close()
        for connecting in self._connecting:
            connecting.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        closing = self.connections
        self.cut()
        for connection in closing:
            await connection.closed.wait()

    # --- inside ----------------------------------------------------------------------------------

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _address = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # the client closed the connection before it was accepted
        self.accepted_at.append(asyncio.get_running_loop().time())
        client.setblocking(False)
        handle = (
            self._connect if self.connect_policy is ConnectPolicy.FORWARD else _reset_after_byte
        )
        connecting = asyncio.create_task(handle(client), name="fault proxy connects")
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connecting.discard)

    async def _connect(self, client: socket.socket) -> None:
        """Connect a client to the target; reset it if the target refuses."""
        loop = asyncio.get_running_loop()
        target = _plain_socket()
        try:
            await loop.sock_connect(target, (HOST, self.target))
            _, client_end = await loop.connect_accepted_socket(ProxyEndpoint, client)
            _, target_end = await loop.connect_accepted_socket(ProxyEndpoint, target)
        except BaseException as error:
            # No `ProxiedConnection` owns the sockets yet.
            _reset(client)
            target.close()
            if isinstance(error, OSError):
                return
            raise
        connection = ProxiedConnection(client_end, target_end)
        self._connections = [*self.connections, connection]
        self.on_connection(connection)
        self._new.append(connection)
        self._new_connection.set()
        connection.start()


def _plain_socket() -> socket.socket:
    # IPPROTO_TCP is explicit because asyncio sets TCP_NODELAY only on sockets created with it.
    plain = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    plain.setblocking(False)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
    return plain


def _bound(port: int) -> socket.socket:
    """Return a socket bound to the port, which the listener and `_reserved` share."""
    bound = _plain_socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((HOST, port))
    return bound


async def _reset_after_byte(client: socket.socket) -> None:
    try:
        await asyncio.get_running_loop().sock_recv(client, 1)
    except ConnectionError:
        pass
    finally:
        _reset(client)


def _reset(end: socket.socket) -> None:
    reset_on_close(end)
    end.close()
