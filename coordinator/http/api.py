"""The HTTP routes for clients."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web

from provider_agent.coordinator.agents.dispatcher import Dispatcher
from provider_agent.coordinator.agents.fleet import Fleet
from provider_agent.coordinator.connections.failed_attempts import FailedAttempts
from provider_agent.coordinator.http.api_keys import ApiKeyCheck
from provider_agent.coordinator.http.client_errors import RETRY_AFTER_S, ClientError, error_of_code
from provider_agent.coordinator.http.client_request import read_client_request
from provider_agent.coordinator.http.counters import Counters
from provider_agent.coordinator.http.model_list import render_model, render_models
from provider_agent.coordinator.http.request_checks import refused_body, refused_origin
from provider_agent.coordinator.http.request_handler import RequestHandler
from provider_agent.coordinator.http.request_memory import MemoryShare, RequestMemory
from provider_agent.coordinator.http.responses import error_response
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation, WireFormat

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MODELS_PATH: Final = "/v1/models"
HEALTH_PATH: Final = "/healthz"

_BUSY: Final = ClientError(
    HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.OUT_OF_CAPACITY.value,
    "The coordinator has too many concurrent requests; try again soon.",
    RETRY_AFTER_S,
)

_STOPPING: Final = error_of_code(ErrorCode.DRAINING, "The coordinator is stopping.")

_HTTP_MESSAGES: Final = {
    HTTPStatus.NOT_FOUND: "There is no such path.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This path does not support the method.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The request body is too large.",
}


class HttpApi:
    """The HTTP API for clients.

    Args:
        settings: the coordinator's settings.
        fleet: lists the agents' models.
        dispatcher: sends jobs to agents.
        clock: monotonic, in seconds.
        random_bytes: generates job ids.

    Attributes:
        counters: the outcomes of the requests so far that had a valid key and body.
    """

    def __init__(
        self,
        settings: CoordinatorSettings,
        fleet: Fleet,
        dispatcher: Dispatcher,
        *,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.counters = Counters()
        self._settings = settings
        self._fleet = fleet
        self._dispatcher = dispatcher
        self._clock = clock
        self._key_check = ApiKeyCheck(
            settings.api_keys, FailedAttempts(clock), settings.trusted_proxies
        )
        self._random_bytes = random_bytes
        self._memory = RequestMemory(settings.max_held_request_bytes)
        self._running = 0
        self._stopping = False
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return f"<HttpApi running={self._running} {self.counters}>"

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the routes: all operations of the protocol, the model list and the health check."""
        for operation in Operation:
            router.add_post(operation.path, self._operation_handler(operation))
        router.add_get(MODELS_PATH, self._models)
        router.add_get(MODELS_PATH + "/{model_id:.+}", self._model)
        router.add_get(HEALTH_PATH, _health)

    async def stop(self, timeout_s: float) -> None:
        """Refuse new jobs with 503, and wait at most `timeout_s` for the running ones."""
        self._stopping = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return

    def _operation_handler(self, operation: Operation) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            refusal = self._refusal(request)
            if refusal is not None:
                return error_response(operation.wire_format, refusal)
            self._running += 1
            self._idle.clear()
            try:
                with self._memory.share() as memory:
                    return await self._run(request, operation, memory)
            finally:
                self._running -= 1
                if not self._running:
                    self._idle.set()

        return handle

    def _refusal(self, request: web.Request) -> ClientError | None:
        refusal = self._access_refusal(request) or refused_body(request)
        if refusal is not None:
            return refusal
        if self._stopping:
            return _STOPPING
        return _BUSY if self._running >= self._settings.max_requests else None

    def _access_refusal(self, request: web.Request) -> ClientError | None:
        return refused_origin(request) or self._key_check.refusal(request)

    async def _run(
        self, request: web.Request, operation: Operation, memory: MemoryShare
    ) -> web.StreamResponse:
        client_request = await read_client_request(
            request, operation, self._settings.body_timeout_s, memory
        )
        if isinstance(client_request, ClientError):
            return error_response(operation.wire_format, client_request)
        handler = RequestHandler(
            request,
            client_request,
            dispatcher=self._dispatcher,
            settings=self._settings,
            counters=self.counters,
            clock=self._clock,
            random_bytes=self._random_bytes,
        )
        return await handler.run()

    async def _models(self, request: web.Request) -> web.StreamResponse:
        wire_format = wire_format_of(request)
        if (refusal := self._access_refusal(request)) is not None:
            return error_response(wire_format, refusal)
        return _json(render_models(wire_format, self._fleet.models(wire_format)))

    async def _model(self, request: web.Request) -> web.StreamResponse:
        wire_format = wire_format_of(request)
        if (refusal := self._access_refusal(request)) is not None:
            return error_response(wire_format, refusal)
        model_id = request.match_info["model_id"]
        if model_id not in self._fleet.models(wire_format):
            message = f"The model `{model_id}` is not offered by any connected provider."
            return error_response(wire_format, error_of_code(ErrorCode.MODEL_NOT_LOADED, message))
        return _json(render_model(wire_format, model_id))


def wire_format_of(request: web.Request) -> WireFormat:
    """Return the wire format for a model list, or for an error that aiohttp itself raised.

    It is Anthropic's for the Messages paths and for requests with the header `anthropic-version`.
    """
    is_anthropic = "anthropic-version" in request.headers or request.path.startswith(
        Operation.MESSAGES.path
    )
    return WireFormat.ANTHROPIC if is_anthropic else WireFormat.OPENAI


@web.middleware
async def render_http_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Render aiohttp's own errors (such as 404, 405 and 413) in the wire format of the request."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        message = _HTTP_MESSAGES.get(HTTPStatus(error.status), error.reason)
        code = "not_found" if error.status == HTTPStatus.NOT_FOUND else "bad_request"
        client_error = ClientError(error.status, code, message)
        response = error_response(wire_format_of(request), client_error)
        if hdrs.ALLOW in error.headers:
            response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
        return response


async def _health(_request: web.Request) -> web.StreamResponse:
    return _json(b'{"status":"ok"}')


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")
