"""Stands between a backend and a real server, and keeps every exchange as a fake does."""

from typing import ClassVar

import aiohttp
from aiohttp import web

from tests.kit.fakes.server import Answer, Exchange, FakeServer


class Recorder(FakeServer):
    """Hands each request on to `target` and its answer back, piece by piece."""

    kind: ClassVar[str] = "recorder"

    def __init__(self, target: str) -> None:
        super().__init__()
        self._target = target

    def answer(self, exchange: Exchange) -> Answer:
        raise AssertionError("a recorder has no answers of its own")

    def error(self, status: int, message: str, exchange: Exchange) -> Answer:
        raise AssertionError("a recorder has no errors of its own")

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        exchange = Exchange(request.method, request.path, dict(request.query), headers, body)
        self.exchanges.append(exchange)
        passed = {name: value for name, value in headers.items() if name != "host"}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as client,
            client.request(
                request.method, self._target + request.path_qs, data=body, headers=passed
            ) as upstream,
        ):
            content_type = upstream.headers.get("Content-Type", "")
            response = web.StreamResponse(
                status=upstream.status, headers={"Content-Type": content_type}
            )
            await response.prepare(request)
            async for piece in upstream.content.iter_any():
                exchange.sent += piece
                await response.write(piece)
            await response.write_eof()
            return response
