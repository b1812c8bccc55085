"""A reverse proxy that records the requests to a real server, as a fake does."""

from typing import ClassVar

import aiohttp
from aiohttp import web

from tests.kit.fakes.server import FakeResponse, FakeServer, RecordedRequest


class RecordingProxy(FakeServer):
    """Forwards each request to `target`, and each piece of the response to the client."""

    kind: ClassVar[str] = "recording proxy"

    def __init__(self, target: str) -> None:
        super().__init__()
        self._target = target

    def respond(self, request: RecordedRequest) -> FakeResponse:
        raise AssertionError("the proxy only forwards responses")

    def error_response(self, status: int, message: str, request: RecordedRequest) -> FakeResponse:
        raise AssertionError("the proxy only forwards responses")

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        recorded = RecordedRequest(request.method, request.path, dict(request.query), headers, body)
        self.requests.append(recorded)
        forwarded = {name: value for name, value in headers.items() if name != "host"}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as client,
            client.request(
                request.method, self._target + request.path_qs, data=body, headers=forwarded
            ) as upstream,
        ):
            content_type = upstream.headers.get("Content-Type", "")
            response = web.StreamResponse(
                status=upstream.status, headers={"Content-Type": content_type}
            )
            await response.prepare(request)
            async for piece in upstream.content.iter_any():
                recorded.sent += piece
                await response.write(piece)
            await response.write_eof()
            return response
