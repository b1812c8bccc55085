"""Errors for clients: HTTP status, body and stream event in the wire format of the request.

The bodies are those of the OpenAI API (`{"error": {message, type, param, code}}`) and the Anthropic
API (`{"type": "error", "error": {type, message}}`), so that the official clients raise their own
typed exceptions.
"""

import math
from http import HTTPStatus
from typing import Final, Literal

import msgspec
from msgspec import Struct

from provider_agent.coordinator.agents.dispatcher import MAX_RETRY_S
from provider_agent.protocol.errors import REGISTRY, ErrorCode, Fault, known_code
from provider_agent.protocol.formats import Operation, WireFormat
from provider_agent.protocol.frames import JobError

RETRY_AFTER_S: Final = 2
"""The default `Retry-After` of a 503: about the duration of a short job."""

_STATUS: Final = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: 400,
    ErrorCode.CANCELLED: 503,  # the client still waits; the agent cancelled the job by itself
    ErrorCode.MODEL_NOT_LOADED: 404,
    ErrorCode.FORMAT_NOT_SUPPORTED: 400,
    ErrorCode.OUT_OF_CAPACITY: 503,
    ErrorCode.DRAINING: 503,
    ErrorCode.DEADLINE_EXCEEDED: 504,
    ErrorCode.SLOW_CONSUMER: 408,
    ErrorCode.BACKEND_UNREACHABLE: 502,
    ErrorCode.BACKEND_TIMEOUT: 504,
    ErrorCode.BACKEND_OVERLOADED: 503,
    ErrorCode.BACKEND_ERROR: 502,
    ErrorCode.AUTH_REJECTED_BY_BACKEND: 502,
    ErrorCode.INVALID_RESPONSE: 502,
    ErrorCode.INTERNAL: 500,
}

_PASSED_THROUGH: Final = frozenset({ErrorCode.BAD_REQUEST, ErrorCode.CONTEXT_LENGTH_EXCEEDED})
"""Codes for which the client receives the server's own status and body."""

_OPERATOR_STATUSES: Final = frozenset({401, 402, 403, 407, 408, 429})
"""Upstream statuses about the agent's own access to the server, not about the client's request."""

_OPENAI_TYPE: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}

_ANTHROPIC_TYPE: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class ClientError(Struct, frozen=True):
    """An error for a client, independent of the wire format.

    Attributes:
        status: the HTTP status.
        code: an `ErrorCode`, an agent's unknown code, or a name that only the HTTP API has.
        message: one human-readable sentence.
        retry_after_s: the `Retry-After` header; None for no header.
        upstream_body: the inference server's error body; sent instead of the coordinator's own
            if it is an error object of the wire format.
    """

    status: int
    code: str
    message: str
    retry_after_s: int | None = None
    upstream_body: bytes = b""


def error_of_code(code: ErrorCode, message: str = "") -> ClientError:
    """Return the error for a code; the default message is the code's meaning in `REGISTRY`."""
    status = _STATUS[code]
    return ClientError(
        status=status,
        code=code.value,
        message=message or REGISTRY[code].meaning,
        retry_after_s=RETRY_AFTER_S if status == HTTPStatus.SERVICE_UNAVAILABLE else None,
    )


def error_of_job(error: JobError) -> ClientError:
    """Return the error for an agent's `JobError`.

    If the inference server rejected the client's request, its 4xx status and body are forwarded.
    """
    code = known_code(error.code)
    status = _STATUS[code]
    if code is ErrorCode.MODEL_NOT_LOADED and error.upstream_status is None:
        # The agent offered the model a moment ago: its server is probably restarting.
        status = HTTPStatus.SERVICE_UNAVAILABLE
    upstream_body = b""
    if code in _PASSED_THROUGH:
        upstream_body = error.body
        upstream = error.upstream_status or 0
        if 400 <= upstream < 500 and upstream not in _OPERATOR_STATUSES:
            status = upstream
    retry_after_s = None
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        retry_after_s = RETRY_AFTER_S
        if error.retry_after_ms is not None:
            retry_after_s = max(1, min(MAX_RETRY_S, math.ceil(error.retry_after_ms / 1000)))
    # A message about the provider's own failure is for its operator; clients receive the meaning of
    # the code.
    entry = REGISTRY[code]
    message = error.message if entry.fault is not Fault.PROVIDER else ""
    return ClientError(
        status=status,
        code=error.code,
        message=message or entry.meaning,
        retry_after_s=retry_after_s,
        upstream_body=upstream_body,
    )


def render_body(wire_format: WireFormat, error: ClientError) -> bytes:
    """Return the body of an error response: one JSON object in the wire format."""
    if error.upstream_body and _is_error_body(wire_format, error.upstream_body):
        return error.upstream_body
    return msgspec.json.encode(_error_object(wire_format, error))


def render_event(operation: Operation, error: ClientError, sequence_number: int = 0) -> bytes:
    """Return the error event that ends an interrupted stream; it must follow a complete event.

    Args:
        operation: the operation, which decides the form of the event.
        error: the error.
        sequence_number: the number of the event, which only the Responses API has.
    """
    event: dict[str, object]
    if operation is Operation.RESPONSES:
        event = {
            "type": "error",
            "code": error.code,
            "message": error.message,
            "param": None,
            "sequence_number": sequence_number,
        }
    else:
        event = _error_object(operation.wire_format, error)
    data = b"data: " + msgspec.json.encode(event) + b"\n\n"
    is_named = event.get("type") == "error"
    return b"event: error\n" + data if is_named else data


def _error_object(wire_format: WireFormat, error: ClientError) -> dict[str, object]:
    status, message = error.status, error.message
    if wire_format is WireFormat.ANTHROPIC:
        fallback = "invalid_request_error" if status < 500 else "api_error"
        kind = _ANTHROPIC_TYPE.get(status, fallback)
        return {"type": "error", "error": {"type": kind, "message": message}}
    fallback = "invalid_request_error" if status < 500 else "server_error"
    kind = _OPENAI_TYPE.get(status, fallback)
    return {"error": {"message": message, "type": kind, "param": None, "code": error.code}}


class _Message(Struct):
    message: str


class _OpenAIShape(Struct):
    error: _Message


class _AnthropicMessage(Struct):
    type: str
    message: str


class _AnthropicShape(Struct):
    type: Literal["error"]
    error: _AnthropicMessage


def _is_error_body(wire_format: WireFormat, body: bytes) -> bool:
    shape = _AnthropicShape if wire_format is WireFormat.ANTHROPIC else _OpenAIShape
    try:
        msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
