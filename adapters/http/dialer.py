"""Opens connections to one server: name resolution, happy eyeballs, TLS."""

import asyncio
import errno
import os
import re
import socket
import ssl
from functools import cache
from typing import Final

import aiohappyeyeballs

from provider_agent.adapters.http import failures
from provider_agent.adapters.http.connection import READ_BYTES, HttpConnection
from provider_agent.adapters.http.server_address import ServerAddress, parse_address

FALLBACK_S: Final = 0.25
"""How long an address may take before the next one is tried as well (RFC 8305)."""

REMEMBER_S: Final = 10.0
"""How long an address that accepted a connection is used again without name resolution, which takes
a thread. Short, because a changed name has to take effect."""

SLOW_HANDSHAKE_S: Final = 0.5
"""How long a TLS handshake may take before plain HTTP is tried. Most take below 0.1 s."""

_PLAIN_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n"
_PLAIN_RESPONSE: Final = re.compile(rb"HTTP/1\.\d (?!3\d\d|400|426)\d")

AddressInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]


class Dialer:
    """Opens connections to one server.

    Args:
        address: the server.
        connect_s: the timeout of opening a connection, with name resolution and TLS handshake.
    """

    def __init__(self, address: ServerAddress, connect_s: float) -> None:
        self._address = address
        self._connect_s = connect_s
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._remembered: AddressInfo | None = None
        self._remembered_until = 0.0

    async def dial(self) -> HttpConnection:
        """Open a connection.

        Raises:
            Unreachable: no address accepted the connection, or the TLS handshake failed.
            BackendTimeout: the connection did not open in time.
        """
        try:
            async with asyncio.timeout(self._connect_s):
                return await self._open(await self._connect())
        except TimeoutError as error:
            self._remembered = None
            if error.errno is not None:  # of the kernel, which gave up first
                raise failures.connect_failure(error, self._address.host) from error
            raise failures.connect_timeout() from error
        except UnicodeError as error:  # a label of the host is empty or too long
            raise failures.invalid_url() from error
        except OSError as error:
            raise failures.connect_failure(error, self._address.host) from error

    async def _connect(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        if self._remembered is not None and loop.time() < self._remembered_until:
            try:
                return await _connect_to(self._remembered)
            except OSError:
                self._remembered = None
        found = await self._resolve()
        sock = await aiohappyeyeballs.start_connection(
            found, happy_eyeballs_delay=FALLBACK_S, interleave=1, loop=loop
        )
        try:
            peer = sock.getpeername()
        except OSError:  # the server has reset the connection
            sock.close()
            raise
        self._remembered = next((info for info in found if info[4][:2] == peer[:2]), None)
        self._remembered_until = loop.time() + REMEMBER_S
        return sock

    async def _resolve(self) -> list[AddressInfo]:
        host, port = self._address.host, self._address.port
        try:
            # Succeeds at once for an IP address; a name needs a thread.
            return socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
            )  # type: ignore[return-value]
        except socket.gaierror:
            loop = asyncio.get_running_loop()
            return await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)  # type: ignore[return-value]

    async def _open(self, sock: socket.socket) -> HttpConnection:
        connection = HttpConnection(self._buffer, sock, is_tls=self._address.is_tls)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            await self._attach(connection, sock)
        except BaseException:
            connection.close()
            sock.close()
            raise
        return connection

    async def _attach(self, connection: HttpConnection, sock: socket.socket) -> None:
        """Attach the socket to the event loop; at an `https` URL, perform the TLS handshake."""
        loop = asyncio.get_running_loop()
        if not self._address.is_tls:
            await loop.create_connection(lambda: connection, sock=sock)
            return
        handshake = asyncio.ensure_future(
            loop.create_connection(
                lambda: connection,
                sock=sock,
                ssl=_tls_context(),
                server_hostname=self._address.host,
            )
        )
        probe = asyncio.create_task(self._speaks_plain_http(), name="plain HTTP probe")
        try:
            await asyncio.wait({handshake, probe}, return_when=asyncio.FIRST_COMPLETED)
            if not handshake.done() and probe.result():
                raise failures.plain_http()
            await handshake
        finally:
            for task in (handshake, probe):
                task.cancel()
            await asyncio.gather(handshake, probe, return_exceptions=True)

    async def _speaks_plain_http(self) -> bool:
        """Ask over another connection, unless the handshake completes soon.

        Some servers wait for the line end of a request when they receive a handshake. A TLS server
        answers plain HTTP with status 400 or a redirect, if at all.
        """
        await asyncio.sleep(SLOW_HANDSHAKE_S)
        try:
            reader, writer = await asyncio.open_connection(self._address.host, self._address.port)
        except OSError:
            return False
        try:
            writer.write(_PLAIN_REQUEST % self._address.authority.encode())
            line = await reader.readline()
        except (OSError, ValueError):
            return False
        finally:
            writer.close()
        return _PLAIN_RESPONSE.match(line) is not None


async def _connect_to(info: AddressInfo) -> socket.socket:
    """Open a connection to one address."""
    family, kind, protocol, _, address = info
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        error = sock.connect_ex(address)
        if error == errno.EINPROGRESS:
            # On loopback, the handshake is complete already, and a second call reports it. To wait
            # for the event loop would take twice as long.
            error = sock.connect_ex(address)
        if error == errno.EALREADY:
            await asyncio.get_running_loop().sock_connect(sock, address)
        elif error and error != errno.EISCONN:
            raise OSError(error, os.strerror(error))
    except BaseException:
        sock.close()
        raise
    return sock


@cache
def _tls_context() -> ssl.SSLContext:
    """Return the TLS context of all connections; loading the trusted certificates takes long."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


async def check_connection(url: str, connect_s: float) -> None:
    """Open a connection to a server, with TLS for `https`, and close it.

    Raises:
        Unreachable: the URL is malformed, or no address accepted the connection.
        BackendTimeout: the connection did not open in time.
    """
    connection = await Dialer(parse_address(url), connect_s).dial()
    connection.close()
