"""An HTTP proxy that knows one method, CONNECT: what companies have between desk and net."""

import asyncio
import base64
from types import TracebackType
from typing import Self


class ConnectProxy:
    """Listens on loopback; an asynchronous context manager.

    Args:
        routes: "host:port" as asked for → the port of this machine that stands for it.
        user: "name:password" that clients have to show; "": none.
        answer: is sent in place of a tunnel, a byte at a time, with a second between two.

    Attributes:
        asked: the first line of every request.
    """

    def __init__(
        self, routes: dict[str, int], *, user: str = "", answer: bytes | None = None
    ) -> None:
        self._routes = routes
        self._user = user
        self._answer = answer
        self._tunnels: set[asyncio.Task[None]] = set()
        self.asked: list[str] = []
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
            self.asked.append(first)
            if self._answer is not None:
                await _drip(self._answer, reader, writer)
            elif not self._admits(headers):
                writer.write(b"HTTP/1.1 407 Who are you?\r\nContent-Length: 0\r\n\r\n")
            else:
                port = self._routes[first.split()[1]]
                await _tunnel(reader, writer, *await asyncio.open_connection("127.0.0.1", port))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # whoever asked has gone
        finally:
            writer.close()

    def _admits(self, headers: str) -> bool:
        if not self._user:
            return True
        shown = base64.b64encode(self._user.encode()).decode()
        return f"proxy-authorization: basic {shown}".lower() in headers.lower()


async def _tunnel(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    far_reader: asyncio.StreamReader,
    far_writer: asyncio.StreamWriter,
) -> None:
    writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
    await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def _drip(answer: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the client gives up; after the answer, silence."""
    left = list(answer)
    while True:
        try:
            async with asyncio.timeout(1.0):
                await reader.read(1)
        except TimeoutError:
            if left:
                writer.write(bytes([left.pop(0)]))
            continue
        return
