"""A server that answers with prepared bytes, right or wrong: for faults below what HTTP allows."""

import asyncio
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from types import TracebackType
from typing import Final, Self

import msgspec

ARRIVES_S: Final = 1.0
"""In virtual time: what was written before has arrived."""


class Then(Enum):
    """What follows the bytes of a reply. Before cutting a connection it lets them arrive."""

    KEEP = auto()
    """The next request, if there is one."""
    CLOSE = auto()
    RESET = auto()
    HANG = auto()
    """Nothing, until the client gives up."""


@dataclass(frozen=True)
class Reply:
    """What one request is answered with."""

    data: bytes = b""
    then: Then = Then.KEEP
    late: bytes = b""
    """Comes when `data` has arrived."""
    drip: bytes = b""
    """Comes again and again, until the client gives up."""
    drip_s: float = 0.0


def chunked(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def head(status: int = 200, content_type: str = "text/event-stream", **headers: object) -> bytes:
    """A response's head; `Transfer_Encoding="chunked"` names a header."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Type: {content_type}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def stream(
    pieces: Iterable[bytes],
    *,
    end: bytes = LAST_CHUNK,
    late: bytes = b"",
    then: Then = Then.KEEP,
) -> Reply:
    """A stream of events, in one chunk each; `end` and, later, `late` stand after them."""
    body = b"".join(chunked(piece) for piece in pieces)
    return Reply(head(Transfer_Encoding="chunked") + body + end, then, late)


def whole(body: object, status: int = 200, **headers: object) -> Reply:
    """An answer in one piece: bytes, or what is sent as JSON."""
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Reply(head(status, "application/json", Content_Length=len(data), **headers) + data)


@dataclass(eq=False)
class RawServer:
    """Listens on loopback; an asynchronous context manager. Close its clients first.

    Attributes:
        replies: for the requests in their order; the last one is repeated.
        requests: their bodies.
        abandoned: a client has closed its connection before the answer was complete.
    """

    replies: list[Reply]
    requests: list[bytes] = field(default_factory=list)
    abandoned: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    _talks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """The base address."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._listening.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listening.close()
        if self._talks:
            await asyncio.wait(self._talks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.create_task(self._talk(reader, writer))
        self._talks.add(talk)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                self.requests.append(await _request(reader))
                reply = self.replies[min(len(self.requests), len(self.replies)) - 1]
                writer.write(reply.data)
                await writer.drain()
                if reply.late:
                    await asyncio.sleep(ARRIVES_S)
                    writer.write(reply.late)
                if reply.then is not Then.KEEP or reply.drip:
                    await self._break_off(reply, reader, writer)
                    return
        except asyncio.IncompleteReadError:
            return  # no further request
        except ConnectionError:
            self.abandoned.set()
        finally:
            writer.close()

    async def _break_off(
        self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while reply.drip or reply.then is Then.HANG:
            try:
                async with asyncio.timeout(reply.drip_s or None):
                    await reader.read(1)
            except TimeoutError:
                writer.write(reply.drip)
                continue
            self.abandoned.set()
            return
        await asyncio.sleep(ARRIVES_S)
        if reply.then is Then.RESET:
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


async def _request(reader: asyncio.StreamReader) -> bytes:
    """The body of the next request."""
    top = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = top.partition(b"content-length:")[2].partition(b"\r\n")[0]
    return await reader.readexactly(int(length or b"0"))
