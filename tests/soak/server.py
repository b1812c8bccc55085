"""The inference server of the soak test. It can be killed and started again."""

import asyncio
import random
from collections import Counter, defaultdict, deque
from types import TracebackType
from typing import Self

from aiohttp import web

from provider_agent.protocol.formats import Operation
from tests.soak.random_request import SOAK_MODEL, RandomRequest

_REMEMBERED_JOBS = 4096

_SHUTDOWN_S = 0.05
"""Short, because the server is killed in the middle of responses."""


class SoakServer:
    """Sends `RandomRequest.response`, and counts how often each job runs; an async context manager.

    Args:
        rng: chooses where an event is split into two writes.

    Attributes:
        port: where the server listens; another port after every start.
        active: the number of running responses.
        runs: the number of runs of each job, by the request's name and X-Request-Id.
        late_runs: the number of runs that began after another one of the same job had been counted
            by `runs_of`.
    """

    def __init__(self, rng: random.Random) -> None:
        self.port = 0
        self.active = 0
        self.runs: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.late_runs = 0
        self._counted: deque[str] = deque(maxlen=_REMEMBERED_JOBS)
        self._rng = rng
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.kill()

    def runs_of(self, spec: RandomRequest) -> Counter[str]:
        """Remove and return the number of runs of each job of a request."""
        runs = self.runs.pop(spec.name, Counter())
        self._counted.extend(runs)
        return runs

    async def start(self) -> None:
        """Listen on a new port."""
        app = web.Application()
        app.router.add_get("/v1/models", _models)
        for operation in (Operation.CHAT, Operation.MESSAGES):
            app.router.add_post(operation.path, self._respond)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=_SHUTDOWN_S
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = int(self._runner.addresses[0][1])

    async def kill(self) -> None:
        """Stop listening, and abort every response."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        operation = Operation.CHAT if request.path == Operation.CHAT.path else Operation.MESSAGES
        spec = RandomRequest.parse(operation, await request.read())
        if spec is None:
            return web.json_response({"error": {"message": "a field is missing"}}, status=422)
        job_id = request.headers.get("X-Request-Id", "")
        self.runs[spec.name][job_id] += 1
        self.late_runs += job_id in self._counted
        self.active += 1
        try:
            return await self._stream(request, spec)
        finally:
            self.active -= 1

    async def _stream(self, request: web.Request, spec: RandomRequest) -> web.StreamResponse:
        kind = "text/event-stream" if spec.streamed else "application/json"
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        for event in spec.response():
            cut = self._rng.randrange(len(event) + 1)
            for part in (event[:cut], event[cut:]):
                if part:
                    await response.write(part)
            await asyncio.sleep(spec.pace_ms / 1000)
        await response.write_eof()
        return response


async def _models(_request: web.Request) -> web.Response:
    model = {"id": SOAK_MODEL, "object": "model", "context_length": 4096}
    return web.json_response({"object": "list", "data": [model]})
