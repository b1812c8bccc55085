"""Reads a client's HTTP request, within limits."""

import asyncio
from collections.abc import Mapping

import msgspec
from aiohttp import web

from provider_agent.coordinator.http.client_errors import ClientError, error_of_reason
from provider_agent.coordinator.http.request_memory import MemoryShare
from provider_agent.coordinator.reason import Reason
from provider_agent.protocol.formats import Operation
from provider_agent.protocol.limits import MAX_NAME_CHARS, MIB
from provider_agent.protocol.trace_context import is_traceparent


class ClientRequest(msgspec.Struct, frozen=True):
    """A valid request, from which a job is created.

    Attributes:
        operation: the operation that the path belongs to.
        model_id: the model that the body names.
        body: the unchanged bytes of the body.
        traceparent: the W3C Trace Context header; "" if missing or invalid.
        wants_stream: whether the body has `"stream": true`.
    """

    operation: Operation
    model_id: str
    body: bytes
    traceparent: str
    wants_stream: bool


class RequestBody(msgspec.Struct):
    """A request body; the coordinator reads no other field."""

    model: str
    stream: msgspec.Raw = msgspec.Raw(b"false")

    @property
    def wants_stream(self) -> bool:
        """Whether the server will stream; some servers accept other values than `true` too."""
        return bytes(self.stream) == b"true"


async def read_client_request(
    request: web.Request, operation: Operation, timeout: asyncio.Timeout, memory: MemoryShare
) -> ClientRequest | ClientError:
    """Read the body of a request, and find the model that it names.

    Returns:
        The valid request, or an error if the body is invalid, exceeds `client_max_size` of the
            application, does not fit `memory`, or does not arrive before `timeout` expires.
    """
    try:
        async with timeout:
            body = await _read_body(request, memory)
    except TimeoutError:
        return error_of_reason(Reason.BODY_TIMEOUT)
    if isinstance(body, ClientError):
        return body
    fields = parse_body(body)
    if isinstance(fields, ClientError):
        return fields
    traceparent = valid_traceparent(request.headers)
    return ClientRequest(operation, fields.model, body, traceparent, fields.wants_stream)


async def _read_body(request: web.Request, memory: MemoryShare) -> bytes | ClientError:
    """Return the body as it was sent."""
    limit, announced = request.client_max_size, request.content_length or 0
    if announced > limit:
        return _too_large(limit)
    # Not reserved: a few clients that announce large bodies but send nothing could exclude others.
    if not memory.fits(announced):
        return error_of_reason(Reason.NO_MEMORY)
    if request.content.is_eof():  # as of most requests: all of it has arrived with the headers
        whole = request.content.read_nowait()
        if len(whole) > limit:
            return _too_large(limit)
        return whole if memory.grow(len(whole)) else error_of_reason(Reason.NO_MEMORY)
    body = bytearray()
    async for data in request.content.iter_any():
        if len(body) + len(data) > limit:
            return _too_large(limit)
        if not memory.grow(len(data)):
            return error_of_reason(Reason.NO_MEMORY)
        body += data
    return bytes(body)


def _too_large(limit: int) -> ClientError:
    return error_of_reason(Reason.BODY_TOO_LARGE, detail=f"{limit / MIB:g} MiB")


def parse_body(body: bytes) -> RequestBody | ClientError:
    """Return what is read of a body; an error if it is not a JSON object with a valid `model`."""
    try:
        fields = msgspec.json.decode(body, type=RequestBody)
    except msgspec.ValidationError:
        return error_of_reason(Reason.INVALID_MODEL)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return error_of_reason(Reason.INVALID_JSON)
    if not 0 < len(fields.model) <= MAX_NAME_CHARS:
        return error_of_reason(Reason.INVALID_MODEL)
    return fields


def valid_traceparent(headers: Mapping[str, str]) -> str:
    """Return the `traceparent` header if it is valid, else ""."""
    value = headers.get("traceparent", "").strip()
    return value if is_traceparent(value) else ""
