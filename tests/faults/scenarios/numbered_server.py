"""An inference server that streams numbered events, counts requests, and remembers what it sent."""

import asyncio
import socket
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Self

import msgspec
from aiohttp import web

MODEL = "numbered"
SEND_BUFFER_BYTES = 16 * 1024
PIECE_BYTES = 8 * 1024
DONE = b"data: [DONE]\n\n"


class _Asked(msgspec.Struct):
    model: str
    stream: bool
    messages: list[dict[str, str]]


@dataclass(frozen=True)
class Order:
    """What a client wants, as the text of its prompt.

    Attributes:
        name: of the job; no two orders share one.
        events: how many at least; see `NumberedServer.lasting`.
        size: of each, roughly, in bytes.
        pace_s: between two of them.
        streamed: as events; otherwise as one JSON object, with as much text.
    """

    name: str
    events: int = 20
    size: int = 200
    pace_s: float = 0.0
    streamed: bool = True

    def request(self) -> dict[str, object]:
        """The body of the request."""
        text = f"{self.name} {self.events} {self.size} {self.pace_s}"
        text += f" {zlib.crc32(text.encode())}"
        messages = [{"role": "user", "content": text}]
        return {"model": MODEL, "stream": self.streamed, "messages": messages}

    @classmethod
    def read(cls, body: bytes) -> Self | None:
        """Of a request; None: it is none, as a mere question about the route, or it is damaged."""
        try:
            asked = msgspec.json.decode(body, type=_Asked)
            text, _, checksum = asked.messages[0]["content"].rpartition(" ")
            name, events, size, pace_s = text.split()
        except (ValueError, LookupError):
            return None
        if str(zlib.crc32(text.encode())) != checksum:
            return None
        return cls(name, int(events), int(size), float(pace_s), asked.stream)

    def event(self, number: int) -> bytes:
        """One event of the stream: it can be mistaken for no other, of this job or another."""
        label = f"{self.name}/{number}/"
        content = label + "x" * max(0, self.size - len(label))
        return _chunk(self.name, {"content": content}, None)

    def whole(self) -> bytes:
        """The answer that is not streamed."""
        content = "".join(f"{self.name}/{n}/".ljust(self.size, "x") for n in range(self.events))
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return msgspec.json.encode({"id": self.name, "choices": [choice]})


def _chunk(name: str, delta: object, finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + msgspec.json.encode({"id": name, "choices": [choice]}) + b"\n\n"


@dataclass(eq=False)
class Run:
    """One request for a job.

    Attributes:
        order: what it asked for.
        sent: every byte that went out.
        finished: the answer is complete.
        abandoned: the client went away before it was.
    """

    order: Order
    sent: bytearray = field(default_factory=bytearray)
    finished: bool = False
    abandoned: asyncio.Event = field(default_factory=asyncio.Event)


class NumberedServer:
    """Listens on loopback; an asynchronous context manager.

    Attributes:
        runs: the requests of every job, by its name.
        port: where it listens.
        flowing: cleared, every stream stands still after its next event.
        lasting: while it is true no stream ends.
    """

    def __init__(self) -> None:
        self.runs: dict[str, list[Run]] = {}
        self.port = 0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.lasting: Callable[[], bool] = lambda: False
        self._moved = asyncio.Event()

    @property
    def active(self) -> list[Run]:
        """Requests that are neither answered nor abandoned."""
        every = (run for runs in self.runs.values() for run in runs)
        return [run for run in every if not run.finished and not run.abandoned.is_set()]

    def only_run(self, name: str) -> Run:
        """The one request of a job."""
        (run,) = self.runs[name]
        return run

    async def streaming(self, *names: str, at_least: int = 1) -> None:
        """Return when each of these jobs has sent so many bytes."""
        for name in names:
            while name not in self.runs or len(self.runs[name][0].sent) < at_least:
                self._moved.clear()
                await self._moved.wait()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        # The kernel would take megabytes ahead; so it shows when nobody reads.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        await web.SockSite(self._runner, listener).start()
        self.port = listener.getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._runner.cleanup()

    async def _models(self, _request: web.Request) -> web.Response:
        model = {"id": MODEL, "object": "model", "context_length": 4096}
        return web.json_response({"object": "list", "data": [model]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        order = Order.read(await request.read())
        if order is None:
            return web.json_response({"error": {"message": "a field is missing"}}, status=422)
        run = Run(order)
        self.runs.setdefault(order.name, []).append(run)
        answer = self._stream if order.streamed else self._answer
        try:
            return await answer(request, run)
        except (asyncio.CancelledError, ConnectionError):
            run.abandoned.set()
            raise

    async def _stream(self, request: web.Request, run: Run) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in count():
            if number >= run.order.events and not self.lasting():
                break
            await self._send(response, run, run.order.event(number))
            if run.order.pace_s:
                await asyncio.sleep(run.order.pace_s)
            await self.flowing.wait()
        await self._send(response, run, _chunk(run.order.name, {}, "stop"))
        await self._send(response, run, DONE)
        await response.write_eof()
        run.finished = True
        return response

    async def _answer(self, request: web.Request, run: Run) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        body = run.order.whole()
        response.content_length = len(body)
        await response.prepare(request)
        for start in range(0, len(body), PIECE_BYTES):
            await self._send(response, run, body[start : start + PIECE_BYTES])
        await response.write_eof()
        run.finished = True
        return response

    async def _send(self, response: web.StreamResponse, run: Run, event: bytes) -> None:
        run.sent += event
        await response.write(event)
        self._moved.set()
