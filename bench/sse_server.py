"""A fake inference server that streams events of a fixed size, one HTTP chunk each.

`python -m bench.sse_server EVENTS RATE` prints its port. RATE is events per second and stream; 0
means as fast as possible. Each event carries its send time, from which the receiver computes the
latency.
"""

import asyncio
import random
import sys
import time
from typing import cast

EVENT_BYTES = 250
"""About the size of a chat chunk with one token."""
MODEL = "bench"

_MODELS = b'{"object":"list","data":[{"id":"bench","object":"model"}]}'
_END = (
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":%d}}\n\ndata: [DONE]\n\n'
)
_HEADERS = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def event() -> bytes:
    """Return one event of `EVENT_BYTES`, stamped with the current time."""
    start = b'data: {"t":%d,"choices":[{"index":0,"delta":{"content":"' % time.monotonic_ns()
    rest = b'"},"finish_reason":null}]}\n\n'
    return start + b"x" * (EVENT_BYTES - len(start) - len(rest)) + rest


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Server(asyncio.Protocol):
    """One connection. A request with a body needs a Content-Length."""

    def __init__(self, events: int, rate: float) -> None:
        self._events = events
        self._rate = rate
        self._received = b""
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        if len(rest) < length:
            return
        self._received = rest[length:]
        if head.startswith(b"POST /v1/chat/completions"):
            self._task = asyncio.create_task(self._stream())
        elif head.startswith(b"POST"):
            self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        else:
            answer = (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            )
            self._transport.write(answer % len(_MODELS) + _MODELS)

    async def _stream(self) -> None:
        self._transport.write(_HEADERS)
        pause = 1 / self._rate if self._rate else 0
        next_at = time.monotonic() + random.random() * pause
        for _ in range(self._events):
            if pause:
                await asyncio.sleep(max(0.0, next_at - time.monotonic()))
                next_at += pause
            await self._writable.wait()
            self._transport.write(_chunk(event()))
        self._transport.write(_chunk(_END % self._events) + b"0\r\n\r\n")


async def serve(events: int, rate: float) -> None:
    """Serve until the process is terminated."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Server(events, rate), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2])))
