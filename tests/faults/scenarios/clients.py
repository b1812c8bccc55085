"""HTTP clients that keep every byte of their responses and compare them with what was sent."""

import asyncio
import io
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import aiohttp
import msgspec

from provider_agent.protocol.event_stream import ends_between_events
from tests.faults.scenarios.numbered_server import DONE, NumberedServer, RequestSpec
from tests.kit.byte_difference import byte_difference

TIMEOUT_S = 24 * 3600.0


@dataclass(eq=False)
class ScenarioRequest:
    """One request of one client, and its response so far.

    Attributes:
        spec: the requested response.
        status: the HTTP status; 0 before the response starts.
        data: the body so far.
        broken: whether the connection broke before the body was complete.
        task: sends the request and reads the response.
    """

    spec: RequestSpec
    status: int = 0
    data: bytearray = field(default_factory=bytearray)
    broken: bool = False
    task: asyncio.Task[None] | None = None

    async def completed(self) -> Self:
        """Wait for the end of the response."""
        assert self.task is not None
        await self.task
        return self

    @property
    def errors(self) -> int:
        """Return the number of error events, or error bodies, in the response."""
        return bytes(self.data).count(b'"error"')

    def check_complete(self, server: NumberedServer) -> None:
        """Check that the response is complete, and that the only attempt sent the same bytes."""
        name = self.spec.name
        assert self.status == 200, f"{name}: HTTP {self.status}: {bytes(self.data[:300])!r}"
        assert not self.broken, f"{name}: the connection broke after {len(self.data)} bytes"
        run = server.only_run(name)
        assert self.data == run.sent, (
            f"{name}: {byte_difference(bytes(self.data), bytes(run.sent))}"
        )
        assert run.finished, f"{name}: the server had not finished"
        whole = self.data.endswith(DONE) if self.spec.streamed else self.data == self.spec.body()
        assert whole, f"{name}: the response is incomplete"

    def check_visibly_incomplete(self, server: NumberedServer) -> None:
        """Check that one error or a broken connection shows the client that the response failed."""
        if not self.broken:
            self.check_failed_once(server)

    def check_failed_once(self, server: NumberedServer) -> None:
        """Check that the response is one error, alone or after a prefix of what the server sent.

        Instead of the error, a broken connection is accepted if the response ends within an event.
        """
        if self.broken:
            assert not ends_between_events(bytes(self.data)), self.spec.name
            assert bytes(server.runs[self.spec.name][0].sent).startswith(self.data)
            return
        tail = bytes(self.data[-400:])
        assert self.errors == 1, f"{self.spec.name}: {self.errors} errors in {tail!r}"
        if self.status == 200:
            before, _, _ = bytes(self.data).partition(b'data: {"error"')
            sent = bytes(server.runs[self.spec.name][0].sent)
            assert sent.startswith(before.rstrip(b"\n")), f"{self.spec.name}: not what was sent"


class Clients:
    """HTTP clients, each with its own connection; an asynchronous context manager.

    Args:
        port: the port of the coordinator, or of a proxy in front of it.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._requests: list[ScenarioRequest] = []

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=60),
            read_bufsize=16 * 1024,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        tasks = [request.task for request in self._requests if request.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    def send(self, spec: RequestSpec) -> ScenarioRequest:
        """Send a request, and read its response in a task."""
        request = ScenarioRequest(spec)
        request.task = asyncio.create_task(self._run(request), name=f"client of {spec.name}")
        self._requests.append(request)
        return request

    async def _run(self, request: ScenarioRequest) -> None:
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        try:
            body = io.BytesIO(msgspec.json.encode(request.spec.request()))
            headers = {"Content-Type": "application/json"}
            async with self._session.post(url, data=body, headers=headers) as response:
                request.status = response.status
                async for piece in response.content.iter_any():
                    request.data += piece
        except aiohttp.ClientError:
            request.broken = True
