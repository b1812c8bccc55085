"""An HTTP proxy that supports only the method CONNECT."""

import asyncio
import base64
from types import TracebackType
from typing import Self


class ConnectProxy:
    """A proxy on loopback; an async context manager.

    Args:
        routes: maps a requested "host:port" to a port on loopback.
        user: "name:password" that clients have to send; "": no authorization is required.
        response: sent, one byte per second, instead of opening a tunnel; None: open tunnels.

    Attributes:
        request_lines: the first line of every request.
    """

    def __init__(
        self, routes: dict[str, int], *, user: str = "", response: bytes | None = None
    ) -> None:
        self._routes = routes
        self._user = user
        self._response = response
        self._tunnels: set[asyncio.Task[None]] = set()
        self.request_lines: list[str] = []
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        if self._tunnels:
            await asyncio.wait(self._tunnels)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tunnels.add(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, _, headers = request.partition("\r\n")
            self.request_lines.append(first)
            if self._response is not None:
                await _drip(self._response, reader, writer)
            elif not self._is_authorized(headers):
                writer.write(
                    b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
                )
            else:
                port = self._routes[first.split()[1]]
                await _tunnel(reader, writer, *await asyncio.open_connection("127.0.0.1", port))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client disconnected, or the target failed
        finally:
            writer.close()

    def _is_authorized(self, headers: str) -> bool:
        if not self._user:
            return True
        credentials = base64.b64encode(self._user.encode()).decode()
        return f"proxy-authorization: basic {credentials}".lower() in headers.lower()


async def _tunnel(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    target_reader: asyncio.StreamReader,
    target_writer: asyncio.StreamWriter,
) -> None:
    writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
    await asyncio.gather(_pump(reader, target_writer), _pump(target_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def _drip(
    response: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send one byte per second, then nothing, until the client disconnects."""
    left = list(response)
    while True:
        try:
            async with asyncio.timeout(1.0):
                await reader.read(1)
        except TimeoutError:
            if left:
                writer.write(bytes([left.pop(0)]))
            continue
        return
