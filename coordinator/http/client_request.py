"""What a client's HTTP request asks for, read with limits."""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from aiohttp import web

from provider_agent.coordinator.http.error_shapes import Failure, failure_of_code
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation
from provider_agent.protocol.limits import MAX_NAME_CHARS
from provider_agent.protocol.trace_context import is_traceparent


class ClientRequest(msgspec.Struct, frozen=True):
    """One request, ready to become a job.

    Attributes:
        operation: what is asked for.
        model_id: the model it names.
        body: exactly as it came.
        traceparent: W3C Trace Context; "" for none or an invalid one.
    """

    operation: Operation
    model_id: str
    body: bytes
    traceparent: str


class _Named(msgspec.Struct):
    model: str


async def read_client_request(
    request: web.Request, operation: Operation, timeout_s: float
) -> ClientRequest | Failure:
    """Read the body, at most as much as the application accepts, and what it says of the model.

    Raises:
        web.HTTPRequestEntityTooLarge: the body is too big.
    """
    try:
        async with asyncio.timeout(timeout_s):
            body = await request.read()
    except TimeoutError:
        return Failure(
            HTTPStatus.REQUEST_TIMEOUT, "bad_request", "The request body did not arrive in time."
        )
    model_id = find_model(body)
    if isinstance(model_id, Failure):
        return model_id
    return ClientRequest(operation, model_id, body, valid_traceparent(request.headers))


def find_model(body: bytes) -> str | Failure:
    """The model that a request names; a failure when it is not one JSON object with one."""
    try:
        model_id = msgspec.json.decode(body, type=_Named).model
    except msgspec.ValidationError:
        problem = "The request must be one JSON object with a string `model`."
        return failure_of_code(ErrorCode.BAD_REQUEST, problem)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return failure_of_code(ErrorCode.BAD_REQUEST, "The request is not one JSON object.")
    if not 0 < len(model_id) <= MAX_NAME_CHARS:
        problem = f"`model` must have between 1 and {MAX_NAME_CHARS} characters."
        return failure_of_code(ErrorCode.BAD_REQUEST, problem)
    return model_id


def valid_traceparent(headers: Mapping[str, str]) -> str:
    """The `traceparent` header when it is valid, otherwise ""."""
    value = headers.get("traceparent", "").strip()
    return value if is_traceparent(value) else ""
