"""A server that answers with prepared bytes, for responses that violate HTTP."""

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
"""A pause for bytes written earlier to arrive: the virtual clock advances only after they have."""


class AfterReply(Enum):
    """What the server does after the bytes of a reply have arrived."""

    KEEP = auto()
    """Read the next request."""
    CLOSE = auto()
    RESET = auto()
    HANG = auto()
    """Send nothing until the client disconnects."""


@dataclass(frozen=True)
class Reply:
    """The reply to one request."""

    data: bytes = b""
    then: AfterReply = AfterReply.KEEP
    late: bytes = b""
    """Sent after `data` has arrived."""
    drip: bytes = b""
    """Sent every `drip_s` seconds until the client disconnects."""
    drip_s: float = 0.0


def chunked(data: bytes) -> bytes:
    """Encode one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def head(status: int = 200, content_type: str = "text/event-stream", **headers: object) -> bytes:
    """Encode a status line and headers, such as `Transfer_Encoding="chunked"`."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Type: {content_type}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def stream(
    pieces: Iterable[bytes],
    *,
    end: bytes = LAST_CHUNK,
    late: bytes = b"",
    then: AfterReply = AfterReply.KEEP,
) -> Reply:
    """Build a stream with one HTTP chunk per piece, then `end` and, after a pause, `late`."""
    body = b"".join(chunked(piece) for piece in pieces)
    return Reply(head(Transfer_Encoding="chunked") + body + end, then, late)


def whole(body: object, status: int = 200, **headers: object) -> Reply:
    """Build a response with a content length; a body other than bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Reply(head(status, "application/json", Content_Length=len(data), **headers) + data)


@dataclass(eq=False)
class RawServer:
    """A server on loopback; an async context manager whose exit waits until all clients disconnect.

    Attributes:
        replies: one per request, in order; further requests get the last one again.
        requests: the bodies of the requests so far.
        abandoned: set when a client disconnects before the reply is complete.
    """

    replies: list[Reply]
    requests: list[bytes] = field(default_factory=list)
    abandoned: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """The base URL."""
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
        if self._connections:
            await asyncio.wait(self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                _, body = await read_request(reader)
                self.requests.append(body)
                reply = self.replies[min(len(self.requests), len(self.replies)) - 1]
                writer.write(reply.data)
                await writer.drain()
                if reply.late:
                    await asyncio.sleep(ARRIVES_S)
                    writer.write(reply.late)
                if reply.then is not AfterReply.KEEP or reply.drip:
                    await self._finish(reply, reader, writer)
                    return
        except asyncio.IncompleteReadError:
            return  # the client closed the connection
        except ConnectionError:
            self.abandoned.set()
        finally:
            writer.close()

    async def _finish(
        self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while reply.drip or reply.then is AfterReply.HANG:
            try:
                async with asyncio.timeout(reply.drip_s or None):
                    await reader.read(1)
            except TimeoutError:
                writer.write(reply.drip)
                continue
            self.abandoned.set()
            return
        await asyncio.sleep(ARRIVES_S)
        if reply.then is AfterReply.RESET:
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Read the next request, and return its head and its body.

    Raises:
        IncompleteReadError: the client closed the connection.
    """
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return head, await reader.readexactly(int(length or b"0"))
