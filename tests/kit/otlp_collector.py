"""A collector of OpenTelemetry in this process: OTLP over HTTP, decoded."""

import asyncio
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

RECEIVED_WITHIN_S: Final = 20.0


class OtlpCollector:
    """Receives spans on a free loopback port; an async context manager.

    Attributes:
        status: the status of its responses.
        hold: responses wait until this event is set; it is set at first.
        bodies: the bodies of all requests.
        headers: the headers of the last request.
        resource: the attributes of the last resource.
        spans: all spans so far.
    """

    def __init__(self) -> None:
        self.status = 200
        self.hold = asyncio.Event()
        self.hold.set()
        self.bodies: list[bytes] = []
        self.headers: dict[str, str] = {}
        self.resource: dict[str, Any] = {}
        self.spans: list[Span] = []
        self.port = 0
        self._received = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._respond), shutdown_timeout=0)
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
        self.hold.set()
        await self._runner.cleanup()

    async def received(self, requests: int = 1) -> None:
        """Wait until this many requests have arrived."""
        async with asyncio.timeout(RECEIVED_WITHIN_S):
            while len(self.bodies) < requests:
                self._received.clear()
                await self._received.wait()

    def named(self, name: str) -> Span:
        """Return the only span with a name."""
        (found,) = [span for span in self.spans if span.name == name]
        return found

    async def _respond(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        self.headers = dict(request.headers)
        decoded = ExportTraceServiceRequest.FromString(body)
        for resource in decoded.resource_spans:
            self.resource = attributes(resource.resource.attributes)
            for scope in resource.scope_spans:
                if self.status == 200:
                    self.spans += scope.spans
        self._received.set()
        await self.hold.wait()
        return web.Response(status=self.status)


def attributes(pairs: Any) -> dict[str, Any]:
    """Return attributes as plain values."""
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> Any:
    return getattr(pair.value, pair.value.WhichOneof("value") or "string_value")
