"""An inference server that streams numbered events, and records each run and the bytes it wrote."""

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

from provider_agent.protocol.limits import MAX_REQUEST_BYTES

MODEL = "numbered"
SEND_BUFFER_BYTES = 16 * 1024
PIECE_BYTES = 8 * 1024
"""The size of each write of a response that is not streamed."""
DONE = b"data: [DONE]\n\n"


class _ChatRequest(msgspec.Struct):
    model: str
    stream: bool
    messages: list[dict[str, str]]


@dataclass(frozen=True)
class RequestSpec:
    """The response that a client requests. The prompt describes it to the server.

    Attributes:
        name: unique name of the request.
        events: number of events; `NumberedServer.endless` adds more.
        size: length of each event's text, in bytes.
        pace_s: pause after each event.
        streamed: whether the response is a stream; otherwise it is one JSON object with as much
            text.
        padding: bytes of a second message, which make the request large.
    """

    name: str
    events: int = 20
    size: int = 200
    pace_s: float = 0.0
    streamed: bool = True
    padding: int = 0

    def request(self) -> dict[str, object]:
        """The body of the request."""
        text = f"{self.name} {self.events} {self.size} {self.pace_s}"
        text += f" {zlib.crc32(text.encode())}"
        messages = [{"role": "user", "content": text}]
        if self.padding:
            messages.append({"role": "user", "content": "x" * self.padding})
        return {"model": MODEL, "stream": self.streamed, "messages": messages}

    @classmethod
    def parse(cls, body: bytes) -> Self | None:
        """Parse the prompt. Returns None for a probe (no prompt) and for a corrupted request."""
        try:
            request = msgspec.json.decode(body, type=_ChatRequest)
            text, _, checksum = request.messages[0]["content"].rpartition(" ")
            name, events, size, pace_s = text.split()
        except (ValueError, LookupError):
            return None
        if str(zlib.crc32(text.encode())) != checksum:
            return None
        return cls(name, int(events), int(size), float(pace_s), request.stream)

    def event(self, number: int) -> bytes:
        """One event of the stream, different from every other event of any job."""
        label = f"{self.name}/{number}/"
        content = label + "x" * max(0, self.size - len(label))
        return _chunk(self.name, {"content": content}, None)

    def body(self) -> bytes:
        """The response if it is not streamed."""
        content = "".join(f"{self.name}/{n}/".ljust(self.size, "x") for n in range(self.events))
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return msgspec.json.encode({"id": self.name, "choices": [choice]})


def _chunk(name: str, delta: object, finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + msgspec.json.encode({"id": name, "choices": [choice]}) + b"\n\n"


@dataclass(eq=False)
class Run:
    """One execution of a request. Each attempt of a job is a separate run.

    Attributes:
        spec: what was requested.
        sent: every byte given to the transport so far.
        finished: whether the response is complete.
        abandoned: set when the agent disconnects before the response is complete.
    """

    spec: RequestSpec
    sent: bytearray = field(default_factory=bytearray)
    finished: bool = False
    abandoned: asyncio.Event = field(default_factory=asyncio.Event)


class NumberedServer:
    """The server, on loopback; an asynchronous context manager.

    Attributes:
        runs: every run, by the request's name.
        port: where the server listens.
        endless: no stream ends while this returns True.
    """

    def __init__(self) -> None:
        self.runs: dict[str, list[Run]] = {}
        self.port = 0
        self.endless: Callable[[], bool] = lambda: False
        self._sent = asyncio.Event()

    @property
    def active(self) -> list[Run]:
        """Runs that are neither finished nor abandoned."""
        every = (run for runs in self.runs.values() for run in runs)
        return [run for run in every if not run.finished and not run.abandoned.is_set()]

    def only_run(self, name: str) -> Run:
        """Return the run of a request that must have exactly one."""
        (run,) = self.runs[name]
        return run

    async def wait_for_bytes(self, *names: str, at_least: int = 1) -> None:
        """Return when the first run of each name has sent `at_least` bytes."""
        for name in names:
            while name not in self.runs or len(self.runs[name][0].sent) < at_least:
                self._sent.clear()
                await self._sent.wait()

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=MAX_REQUEST_BYTES)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        # The kernel would otherwise buffer megabytes that the agent has not read.
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
        spec = RequestSpec.parse(await request.read())
        if spec is None:
            error = {"message": "the prompt is missing or corrupted"}
            return web.json_response({"error": error}, status=422)
        run = Run(spec)
        self.runs.setdefault(spec.name, []).append(run)
        respond = self._stream if spec.streamed else self._respond
        try:
            return await respond(request, run)
        except (asyncio.CancelledError, ConnectionError):
            run.abandoned.set()
            raise

    async def _stream(self, request: web.Request, run: Run) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in count():
            if number >= run.spec.events and not self.endless():
                break
            await self._send(response, run, run.spec.event(number))
            if run.spec.pace_s:
                await asyncio.sleep(run.spec.pace_s)
        await self._send(response, run, _chunk(run.spec.name, {}, "stop"))
        await self._send(response, run, DONE)
        await response.write_eof()
        run.finished = True
        return response

    async def _respond(self, request: web.Request, run: Run) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        body = run.spec.body()
        response.content_length = len(body)
        await response.prepare(request)
        for start in range(0, len(body), PIECE_BYTES):
            await self._send(response, run, body[start : start + PIECE_BYTES])
        await response.write_eof()
        run.finished = True
        return response

    async def _send(self, response: web.StreamResponse, run: Run, data: bytes) -> None:
        run.sent += data
        await response.write(data)
        self._sent.set()
