"""Renders the errors that aiohttp itself raises, such as 404 and 405, as errors of the API."""

from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from provider_agent.coordinator.http.client_errors import ClientError
from provider_agent.coordinator.http.responses import error_response
from provider_agent.protocol.formats import Operation, WireFormat

MODELS_PATH: Final = "/v1/models"

_PREFIX: Final = "/v1"

_PATHS: Final = (MODELS_PATH, *(operation.path for operation in Operation))


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
    """Render aiohttp's own errors (such as 404 and 405) in the wire format of the request."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        code, message = "bad_request", error.reason
        allowed = error.headers.get(hdrs.ALLOW)
        if error.status == HTTPStatus.NOT_FOUND:
            code, message = "not_found", f"There is no such path. {_hint(request.path)}"
        elif allowed is not None:
            message = f"This path does not support the method; use {allowed.replace(',', ' or ')}."
        client_error = ClientError(error.status, code, message)
        response = error_response(wire_format_of(request), client_error)
        if allowed is not None:
            response.headers[hdrs.ALLOW] = allowed
        return response


def _hint(path: str) -> str:
    """Return a hint about a wrong path; often the client's base URL lacks `/v1` or has it twice."""
    path = path.rstrip("/")
    meant = [known for known in _PATHS if path.endswith(known.removeprefix(_PREFIX))]
    if meant:
        return f"Did you mean `{max(meant, key=len)}`? Check the base URL of the client."
    return f"The paths of the API begin with `{_PREFIX}`; `GET /` lists them."
