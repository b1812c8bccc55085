"""The inference server of the soak: answers as `Order.answer` says, counts, dies and comes back."""

import asyncio
import random
from collections import Counter, defaultdict
from types import TracebackType
from typing import Self

from aiohttp import web

from provider_agent.protocol.formats import Operation
from tests.soak.order import SOAK_MODEL, Order

_KILLED_S = 0.05


class SoakServer:
    """Runs between entry and exit; `kill` and `start` in between.

    Args:
        dice: how an answer is cut into writes.

    Attributes:
        port: where it listens; another one after every start.
        active: answers under way.
        runs: how often each job was begun, by order and by the agent's name for the job. Whoever
            made the order takes it out with `runs_of`.
    """

    def __init__(self, dice: random.Random) -> None:
        self.port = 0
        self.active = 0
        self.runs: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._dice = dice
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

    def runs_of(self, order: Order) -> Counter[str]:
        """How often each job of this order was begun; asked once."""
        return self.runs.pop(order.name, Counter())

    async def start(self) -> None:
        """Listen."""
        app = web.Application()
        app.router.add_get("/v1/models", _models)
        for operation in (Operation.CHAT, Operation.MESSAGES):
            app.router.add_post(operation.path, self._answer)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=_KILLED_S
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = int(self._runner.addresses[0][1])

    async def kill(self) -> None:
        """Break every answer off."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        operation = Operation.CHAT if request.path == Operation.CHAT.path else Operation.MESSAGES
        order = Order.read(operation, await request.read())
        if order is None:
            return web.json_response({"error": {"message": "a field is missing"}}, status=422)
        self.runs[order.name][request.headers.get("X-Request-Id", "")] += 1
        self.active += 1
        try:
            return await self._stream(request, order)
        finally:
            self.active -= 1

    async def _stream(self, request: web.Request, order: Order) -> web.StreamResponse:
        kind = "text/event-stream" if order.streamed else "application/json"
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        for event in order.answer():
            cut = self._dice.randrange(len(event) + 1)
            for part in (event[:cut], event[cut:]):
                if part:
                    await response.write(part)
            await asyncio.sleep(order.pace_ms / 1000)
        await response.write_eof()
        return response


async def _models(_request: web.Request) -> web.Response:
    model = {"id": SOAK_MODEL, "object": "model", "context_length": 4096}
    return web.json_response({"object": "list", "data": [model]})
