"""A scripted network: a proxy between who dials and who listens, which fails as a test tells it.

A `FaultProxy` is a TCP proxy on loopback. Every connection has two `FaultProxyPipe`s, `out` (from
the dialing side) and `back` (towards it), which can be stalled, delayed, throttled, corrupted, cut
at a byte, or closed separately; a whole `ProxiedConnection` can be cut or can vanish.
`FaultProxy.prepare` configures future connections before their first byte passes.

All of it is plain calls, works on asyncio, on uvloop and in virtual time, and needs no task but for
dialling the other side.
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
"""Kernel buffers of the proxy's sockets: small, so that both ends soon feel that it is stalled."""

MAX_UNTAKEN: Final = 64
"""Connections kept for `next_connection`; in a long run nobody asks for them."""


class Arrival(Enum):
    """What happens to somebody who dials."""

    CARRY = auto()
    """A connection to the target."""
    DROP = auto()
    """It is accepted, and reset when it has said its first word."""


class FaultProxy:
    """Listens on entry, at a port that it keeps until the end.

    Args:
        target: the port on loopback to which connections go; can be changed at any time.

    Attributes:
        target: see above.
        arrival: what happens to whoever dials.
        prepare: told of every new connection before a byte passes.
        dialled_at: when somebody dialled, by the loop's clock; refused ones are not noticed.
    """

    def __init__(self, target: int = 0) -> None:
        self.target = target
        self.arrival = Arrival.CARRY
        self.prepare: Callable[[ProxiedConnection], None] = lambda _connection: None
        self.dialled_at: list[float] = []
        self.port = 0
        self._all: list[ProxiedConnection] = []
        self._reserved: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._new: deque[ProxiedConnection] = deque(maxlen=MAX_UNTAKEN)
        self._something_new = asyncio.Event()
        self._joining: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        listens = "refusing" if self._listener is None else self.arrival.name.lower()
        return f"<FaultProxy {self.port}->{self.target} {listens} {self.connections}>"

    @property
    def authority(self) -> str:
        """Where to dial, as `host:port`; what an agent's signature names."""
        return f"{HOST}:{self.port}"

    @property
    def connections(self) -> list[ProxiedConnection]:
        """Those that are not over, vanished ones included."""
        self._all = [one for one in self._all if not one.closed.is_set()]
        return self._all

    async def next_connection(self) -> ProxiedConnection:
        """The next connection, in their order; waits for it."""
        while not self._new:
            self._something_new.clear()
            await self._something_new.wait()
        return self._new.popleft()

    def refuse(self) -> None:
        """Refuse whoever dials from now on, as a port does where nobody listens."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def listen(self) -> None:
        """Take connections again after `refuse`."""
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.listen(256)
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def cut(self) -> None:
        """Cut every connection that there is."""
        for connection in self.connections:
            connection.cut()

    def vanish(self) -> None:
        """Let every connection that there is vanish."""
        for connection in self.connections:
            connection.vanish()

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
        for joining in self._joining:
            joining.cancel()
        await asyncio.gather(*self._joining, return_exceptions=True)
        ending = self.connections
        self.cut()
        for connection in ending:
            await connection.closed.wait()

    # --- inside ----------------------------------------------------------------------------------

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            dialler, _address = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # it went away before it was looked at
        self.dialled_at.append(asyncio.get_running_loop().time())
        dialler.setblocking(False)
        answer = self._join if self.arrival is Arrival.CARRY else _drop
        joining = asyncio.create_task(answer(dialler), name="proxy answers")
        self._joining.add(joining)
        joining.add_done_callback(self._joining.discard)

    async def _join(self, dialler: socket.socket) -> None:
        """Connect a dialler with the target; reset it when there is none."""
        loop = asyncio.get_running_loop()
        listener = _plain_socket()
        try:
            await loop.sock_connect(listener, (HOST, self.target))
            _, near = await loop.connect_accepted_socket(ProxyEndpoint, dialler)
            _, far = await loop.connect_accepted_socket(ProxyEndpoint, listener)
        except BaseException as error:
            # Nothing was handed to a connection yet, so nobody else closes them.
            _reset(dialler)
            listener.close()
            if isinstance(error, OSError):
                return
            raise
        connection = ProxiedConnection(near, far)
        self._all = [*self.connections, connection]
        self.prepare(connection)
        self._new.append(connection)
        self._something_new.set()
        connection.start()


def _plain_socket() -> socket.socket:
    # The protocol is named because asyncio sets TCP_NODELAY only on sockets that say it.
    plain = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    plain.setblocking(False)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    return plain


def _bound(port: int) -> socket.socket:
    """A socket that has the port, so that nobody else gets it while the proxy refuses."""
    bound = _plain_socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((HOST, port))
    return bound


async def _drop(dialler: socket.socket) -> None:
    try:
        await asyncio.get_running_loop().sock_recv(dialler, 1)
    except ConnectionError:
        pass
    finally:
        _reset(dialler)


def _reset(end: socket.socket) -> None:
    reset_on_close(end)
    end.close()
