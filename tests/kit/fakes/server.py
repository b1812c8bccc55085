"""The base of the fake servers: records requests over HTTP and injects faults.

A fake returns a `FakeResponse` for each request. This module sends it: whole, in small chunks, or
with a fault, so that every fake can fail in every way.
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
_PROMPT_FIELDS: Final = ("messages", "prompt", "input")


class Fault(Enum):
    """A fault in the response to a job."""

    HANG_BEFORE_HEADERS = auto()
    HANG_AFTER_HEADERS = auto()
    HANG_AFTER_FIRST_CHUNK = auto()
    RESET_BEFORE_HEADERS = auto()
    RESET_MID_CHUNK = auto()
    STOP_AFTER_FIRST_CHUNK = auto()
    """The body ends after the first chunk, as if it were complete."""


@dataclass(frozen=True)
class FakeResponse:
    """A response of a fake; each chunk is one write, unless the server sets `chunk_bytes`."""

    chunks: tuple[bytes, ...] = ()
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(eq=False)
class RecordedRequest:
    """One request, and the response bytes sent so far."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    sent: bytearray = field(default_factory=bytearray)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    """Set after the first chunk is sent; with `Fault.HANG_AFTER_HEADERS`, after the headers are."""
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client disconnects before the response is complete."""

    @property
    def json(self) -> dict[str, object]:
        """The request's JSON object; {} for any other body."""
        try:
            return msgspec.json.decode(self.body, type=dict[str, object])
        except ValueError:
            return {}

    @property
    def operation(self) -> Operation | None:
        """The operation of the request's path."""
        return _OPERATION_AT.get(self.path.removeprefix("/api"))

    @property
    def is_job(self) -> bool:
        """Whether the request has a prompt and a model other than vLLM's probe model."""
        asks = self.method == "POST" and self.operation is not None
        prompted = any(name in self.json for name in _PROMPT_FIELDS)
        return asks and prompted and self.json.get("model") != PROBE_MODEL

    @property
    def is_streamed(self) -> bool:
        """Whether the request is for a stream: vLLM also accepts other values than `true`."""
        return str(self.json.get("stream")).lower() in ("true", "1", "1.0", "yes", "y", "on", "t")

    @property
    def asks_for_usage(self) -> bool:
        """Whether the request asks for the usage of a stream."""
        options = self.json.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True


def json_response(
    content: object, status: int = 200, headers: dict[str, str] | None = None
) -> FakeResponse:
    """A JSON response."""
    return FakeResponse((msgspec.json.encode(content),), status, headers=headers or {})


def stream_response(frames: list[bytes]) -> FakeResponse:
    """A response of server-sent events."""
    return FakeResponse(tuple(frames), content_type="text/event-stream")


class FakeServer(ABC):
    """A fake inference server on loopback; an async context manager.

    Attributes:
        kind: the kind of the adapter under test.
        prefix: the first part of the path of every route.
        all_routes: the operations that this kind of server supports.
        api_key: the bearer token that the server requires; None if it requires none.
        requests: every request so far.
        routes: the operations that this instance supports.
        chunk_bytes: size of each write; None: one write per chunk of the `FakeResponse`.
        port: the port that it listens on; 0: a free one.
        wait_after_first_chunk: what each job's response waits for after a chunk; None: nothing.
    """

    kind: ClassVar[str]
    prefix: ClassVar[str] = ""
    all_routes: ClassVar[frozenset[Operation]] = frozenset(Operation)

    def __init__(self, *, api_key: str | None = None) -> None:
        self.api_key = api_key
        self.requests: list[RecordedRequest] = []
        self.routes = set(self.all_routes)
        self.chunk_bytes: int | None = None
        self.wait_after_first_chunk: asyncio.Event | None = None
        self._outcomes: deque[Fault | FakeResponse] = deque()
        self._arrived = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.port = 0

    # --- for tests -----------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The base URL, as in the configuration of an agent."""
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    @property
    def jobs(self) -> list[RecordedRequest]:
        """The requests that are jobs, in order."""
        return [request for request in self.requests if request.is_job]

    def probes(self, operation: Operation) -> list[RecordedRequest]:
        """The requests for an operation that are not jobs."""
        return [
            request
            for request in self.requests
            if request.operation is operation and not request.is_job
        ]

    def requests_to(self, path: str) -> list[RecordedRequest]:
        """The requests to one path."""
        return [request for request in self.requests if request.path == self.prefix + path]

    def script_jobs(self, *outcomes: Fault | FakeResponse) -> None:
        """Set the outcomes of the next jobs, one each; `respond` answers further jobs."""
        self._outcomes.extend(outcomes)

    async def wait_for_job(self) -> RecordedRequest:
        """Wait for the first job."""
        while not self.jobs:
            self._arrived.clear()
            await self._arrived.wait()
        return self.jobs[0]

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=32 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
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
    def respond(self, recorded: RecordedRequest) -> FakeResponse:
        """Return this server's response to a request, before any fault is applied to it."""

    @abstractmethod
    def error_response(self, status: int, message: str, recorded: RecordedRequest) -> FakeResponse:
        """Return an error in this server's shape."""

    def is_public(self, path: str) -> bool:
        """Whether a path (without the prefix) requires no key."""
        return False

    # --- the connection ------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        recorded = RecordedRequest(
            request.method,
            request.path,
            dict(request.query),
            {name.lower(): value for name, value in request.headers.items()},
            await request.read(),
        )
        self.requests.append(recorded)
        self._arrived.set()
        response, fault = self._choose_outcome(recorded)
        try:
            return await self._send(request, recorded, response, fault)
        except (asyncio.CancelledError, ConnectionError):
            recorded.disconnected.set()
            raise

    def _choose_outcome(self, recorded: RecordedRequest) -> tuple[FakeResponse, Fault | None]:
        path = recorded.path.removeprefix(self.prefix)
        required = None if self.api_key is None else f"Bearer {self.api_key}"
        if (
            required
            and recorded.headers.get("authorization") != required
            and not self.is_public(path)
        ):
            return self.error_response(401, "invalid key", recorded), None
        outcome = self._outcomes.popleft() if recorded.is_job and self._outcomes else None
        if isinstance(outcome, FakeResponse):
            return outcome, None
        return self.respond(recorded), outcome

    async def _send(
        self,
        request: web.Request,
        recorded: RecordedRequest,
        prepared: FakeResponse,
        fault: Fault | None,
    ) -> web.StreamResponse:
        if fault is Fault.HANG_BEFORE_HEADERS:
            await asyncio.Event().wait()
        if fault is Fault.RESET_BEFORE_HEADERS:
            await _reset(request)
        headers = {"Content-Type": prepared.content_type, **prepared.headers}
        response = web.StreamResponse(status=prepared.status, headers=headers)
        await response.prepare(request)
        if fault is Fault.HANG_AFTER_HEADERS:
            recorded.started.set()
            await asyncio.Event().wait()
        for chunk in self._split(prepared):
            recorded.sent += chunk
            await response.write(chunk)
            recorded.started.set()
            if chunk.startswith(b":"):
                continue  # an SSE comment: faults follow the first chunk with output
            if self.wait_after_first_chunk is not None and recorded.is_job:
                await self.wait_after_first_chunk.wait()
            if fault is Fault.HANG_AFTER_FIRST_CHUNK:
                await asyncio.Event().wait()
            if fault is Fault.STOP_AFTER_FIRST_CHUNK:
                break
            if fault is Fault.RESET_MID_CHUNK and request.transport is not None:
                recorded.sent += b'data: {"half'
                request.transport.write(b'400\r\ndata: {"half')
                await _reset(request)
        await response.write_eof()
        return response

    def _split(self, response: FakeResponse) -> list[bytes]:
        if self.chunk_bytes is None:
            return list(response.chunks)
        body = b"".join(response.chunks)
        return [body[at : at + self.chunk_bytes] for at in range(0, len(body), self.chunk_bytes)]


async def _reset(request: web.Request) -> None:
    """Reset the connection with a TCP RST; aiohttp then cancels this task."""
    assert request.transport is not None
    connection: socket.socket = request.transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()
    await asyncio.Event().wait()
