"""The form of an error: a body or a stream event in the wire format of the request.

The bodies are those of the OpenAI API (`{"error": {message, type, param, code}}`) and the Anthropic
API (`{"type": "error", "error": {type, message}}`), so that the official clients raise their own
typed exceptions.
"""

from typing import Final, Literal

import msgspec
from msgspec import Struct

from provider_agent.coordinator.http.client_errors import ClientError
from provider_agent.protocol.formats import Operation, WireFormat

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
