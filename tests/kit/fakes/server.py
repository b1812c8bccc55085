"""What the fake servers share: a real HTTP server on loopback that records, misbehaves and tells.

A fake answers each request with an `Answer`; how that reaches the client (whole, cut into odd
pieces, hanging, broken off) is decided here, so that every server can fail in every way.
"""

import asyncio
import socket
import struct
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from types import TracebackType
from typing import ClassVar, Final, Self

import msgspec
from aiohttp import web

from provider_agent.adapters.servers.vllm import PROBE_MODEL
from provider_agent.protocol.formats import Operation

_OPERATION_AT: Final = {operation.path: operation for operation in Operation}
_PROMPTS: Final = ("messages", "prompt", "input")


class Fault(Enum):
    """What goes wrong with the next job, after a good start or none."""

    HANG_BEFORE_HEADERS = auto()
    HANG_AFTER_HEADERS = auto()
    HANG_AFTER_FIRST_CHUNK = auto()
    RESET_BEFORE_HEADERS = auto()
    RESET_MID_CHUNK = auto()
    STOP_AFTER_FIRST_CHUNK = auto()
    """The body ends as if it were complete."""


@dataclass(frozen=True)
class Answer:
    """What a fake answers: its chunks are written one by one."""

    chunks: tuple[bytes, ...] = ()
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(eq=False)
class Exchange:
    """One request, and what has been sent for it so far."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    sent: bytearray = field(default_factory=bytearray)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    """The first byte of the answer's body (or its headers, if it hangs there) went out."""
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)
    """The client went away before the answer was complete."""

    @property
    def json(self) -> dict[str, object]:
        """The request's JSON object; {} when it is none."""
        try:
            return msgspec.json.decode(self.body, type=dict[str, object])
        except ValueError:
            return {}

    @property
    def operation(self) -> Operation | None:
        """The operation whose route it goes to."""
        return _OPERATION_AT.get(self.path.removeprefix("/api"))

    @property
    def is_job(self) -> bool:
        """Whether it asks for an answer of a model; probes do not."""
        asks = self.method == "POST" and self.operation is not None
        prompted = any(name in self.json for name in _PROMPTS)
        return asks and prompted and self.json.get("model") != PROBE_MODEL

    @property
    def is_streamed(self) -> bool:
        """Whether it asks for a stream."""
        return self.json.get("stream") is True

    @property
    def asks_for_usage(self) -> bool:
        """Whether a stream shall report its usage."""
        options = self.json.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True


def json_answer(
    content: object, status: int = 200, headers: dict[str, str] | None = None
) -> Answer:
    """An answer in one piece."""
    return Answer((msgspec.json.encode(content),), status, headers=headers or {})


def stream_answer(frames: list[bytes]) -> Answer:
    """An answer of server-sent events."""
    return Answer(tuple(frames), content_type="text/event-stream")


class FakeServer(ABC):
    """A server on loopback; an asynchronous context manager.

    Attributes:
        kind: of the adapter that it is for.
        prefix: where its routes begin.
        api_key: what it wants as a bearer token; None: anything goes.
        exchanges: every request so far, in their order.
        routes: the operations that this version has a route for.
        cut_bytes: write in pieces of so many bytes, wherever they fall; None: frame by frame.
    """

    kind: ClassVar[str]
    prefix: ClassVar[str] = ""
    all_routes: ClassVar[frozenset[Operation]] = frozenset(Operation)

    def __init__(self, *, api_key: str | None = None) -> None:
        self.api_key = api_key
        self.exchanges: list[Exchange] = []
        self.routes = set(self.all_routes)
        self.cut_bytes: int | None = None
        self._next: deque[Fault | Answer] = deque()
        self._arrived = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._port = 0

    # --- for tests -----------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The base address, as an operator writes it."""
        return f"http://127.0.0.1:{self._port}{self.prefix}"

    @property
    def jobs(self) -> list[Exchange]:
        """The requests that were no questions."""
        return [exchange for exchange in self.exchanges if exchange.is_job]

    def probes(self, operation: Operation) -> list[Exchange]:
        """The requests to a route that were no jobs."""
        return [one for one in self.exchanges if one.operation is operation and not one.is_job]

    def asked(self, path: str) -> list[Exchange]:
        """The requests to one path."""
        return [exchange for exchange in self.exchanges if exchange.path == self.prefix + path]

    def next_job(self, *instead: Fault | Answer) -> None:
        """What happens to the next jobs, one each, instead of a good answer."""
        self._next.extend(instead)

    async def job_arrived(self) -> Exchange:
        """The first job, once it is there."""
        while not self.jobs:
            self._arrived.clear()
            await self._arrived.wait()
        return self.jobs[0]

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=32 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    # --- for each server -----------------------------------------------------------------------

    @abstractmethod
    def answer(self, exchange: Exchange) -> Answer:
        """What this server answers when nothing goes wrong."""

    @abstractmethod
    def error(self, status: int, message: str, exchange: Exchange) -> Answer:
        """An error in this server's shape."""

    def is_open(self, path: str) -> bool:
        """Whether a path (without the prefix) needs no key."""
        return False

    # --- the connection ------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        exchange = Exchange(
            request.method,
            request.path,
            dict(request.query),
            {name.lower(): value for name, value in request.headers.items()},
            await request.read(),
        )
        self.exchanges.append(exchange)
        self._arrived.set()
        answer, fault = self._choose(exchange)
        try:
            return await self._send(request, exchange, answer, fault)
        except (asyncio.CancelledError, ConnectionError):
            exchange.disconnected.set()
            raise

    def _choose(self, exchange: Exchange) -> tuple[Answer, Fault | None]:
        path = exchange.path.removeprefix(self.prefix)
        wanted = None if self.api_key is None else f"Bearer {self.api_key}"
        if wanted and exchange.headers.get("authorization") != wanted and not self.is_open(path):
            return self.error(401, "invalid key", exchange), None
        planned = self._next.popleft() if exchange.is_job and self._next else None
        if isinstance(planned, Answer):
            return planned, None
        return self.answer(exchange), planned

    async def _send(
        self, request: web.Request, exchange: Exchange, answer: Answer, fault: Fault | None
    ) -> web.StreamResponse:
        if fault is Fault.HANG_BEFORE_HEADERS:
            await asyncio.Event().wait()
        if fault is Fault.RESET_BEFORE_HEADERS:
            await _reset(request)
        headers = {"Content-Type": answer.content_type, **answer.headers}
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        if fault is Fault.HANG_AFTER_HEADERS:
            exchange.started.set()
            await asyncio.Event().wait()
        for chunk in self._pieces(answer):
            exchange.sent += chunk
            await response.write(chunk)
            exchange.started.set()
            if chunk.startswith(b":"):
                continue  # a comment is no output: faults come after the first real chunk
            if fault is Fault.HANG_AFTER_FIRST_CHUNK:
                await asyncio.Event().wait()
            if fault is Fault.STOP_AFTER_FIRST_CHUNK:
                break
            if fault is Fault.RESET_MID_CHUNK and request.transport is not None:
                request.transport.write(b'400\r\ndata: {"half')
                await _reset(request)
        await response.write_eof()
        return response

    def _pieces(self, answer: Answer) -> list[bytes]:
        if self.cut_bytes is None:
            return list(answer.chunks)
        whole = b"".join(answer.chunks)
        return [whole[at : at + self.cut_bytes] for at in range(0, len(whole), self.cut_bytes)]


async def _reset(request: web.Request) -> None:
    """Cut the connection so hard that the client sees a reset; it cancels this task."""
    assert request.transport is not None
    connection: socket.socket = request.transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()
    await asyncio.Event().wait()
