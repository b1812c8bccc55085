"""How a failure looks to a client: HTTP status, body and stream event in the format asked for.

The shapes are those of the OpenAI API (`{"error": {message, type, param, code}}`) and the Anthropic
API (`{"type": "error", "error": {type, message}}`), so that the official clients raise their own
typed exceptions.
"""

import math
from http import HTTPStatus
from typing import Final, Literal

import msgspec
from msgspec import Struct

from provider_agent.protocol.errors import REGISTRY, ErrorCode, Fault, known_code
from provider_agent.protocol.formats import WireFormat
from provider_agent.protocol.frames import JobError

RETRY_AFTER_S: Final = 2
"""What a 503 says when nobody knows better: about the length of a short job."""

_STATUS: Final = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: 400,
    ErrorCode.CANCELLED: 503,  # a client who reads this did not cancel: the agent is stopping
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
"""Codes whose upstream status and body tell the client more than ours."""

_NOT_THE_CLIENTS: Final = frozenset({401, 402, 403, 407, 408, 429})
"""Upstream statuses about the operator's key, balance or rate, not about the client's."""

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


class Failure(Struct, frozen=True):
    """Why a request got no answer, before it takes a format's shape.

    Attributes:
        status: the HTTP status.
        code: a registry code, or a short name of a failure at the front.
        message: one sentence for people.
        retry_after_s: for the `Retry-After` header; None: no header.
        upstream_body: what the inference server said, when the client should read that instead.
    """

    status: int
    code: str
    message: str
    retry_after_s: int | None = None
    upstream_body: bytes = b""


def failure_of_code(code: ErrorCode, message: str = "") -> Failure:
    """A failure that the coordinator itself names; without a message, the registry's."""
    status = _STATUS[code]
    return Failure(
        status=status,
        code=code.value,
        message=message or REGISTRY[code].meaning,
        retry_after_s=RETRY_AFTER_S if status == HTTPStatus.SERVICE_UNAVAILABLE else None,
    )


def failure_of_job(error: JobError) -> Failure:
    """What an agent's `JobError` means to the client.

    A 4xx of the inference server about the client's request passes through with its body.
    """
    code = known_code(error.code)
    status = _STATUS[code]
    if code is ErrorCode.MODEL_NOT_LOADED and error.upstream_status is None:
        # It offered the model a moment ago: its server restarts, and will be back.
        status = HTTPStatus.SERVICE_UNAVAILABLE
    upstream_body = b""
    if code in _PASSED_THROUGH:
        upstream_body = error.body
        upstream = error.upstream_status or 0
        if 400 <= upstream < 500 and upstream not in _NOT_THE_CLIENTS:
            status = upstream
    retry_after_s = None
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        retry_after_s = RETRY_AFTER_S
        if error.retry_after_ms is not None:
            retry_after_s = math.ceil(error.retry_after_ms / 1000)
    # What an agent says of its own trouble is for its operator; the client is told what it means.
    entry = REGISTRY[code]
    told = error.message if entry.fault is not Fault.PROVIDER else ""
    return Failure(
        status=status,
        code=error.code,
        message=told or entry.meaning,
        retry_after_s=retry_after_s,
        upstream_body=upstream_body,
    )


def may_try_elsewhere(error: JobError) -> bool:
    """Whether another agent may get the same job: the registry says so, for codes it knows."""
    try:
        return REGISTRY[ErrorCode(error.code)].retryable
    except ValueError:
        return error.retryable


def render_body(wire_format: WireFormat, failure: Failure) -> bytes:
    """The body of an error response, one JSON object in the shape of the format."""
    if failure.upstream_body and _has_shape(wire_format, failure.upstream_body):
        return failure.upstream_body
    return msgspec.json.encode(_shape(wire_format, failure))


def render_event(wire_format: WireFormat, failure: Failure, tail: bytes) -> bytes:
    """The last event of a stream that broke off.

    Args:
        wire_format: what the stream is in.
        failure: why it broke off.
        tail: the last bytes of the stream so far (four are enough); an open event or line is
            closed first, so that the error stands alone.
    """
    data = b"data: " + msgspec.json.encode(_shape(wire_format, failure)) + b"\n\n"
    event = b"event: error\n" + data if wire_format is WireFormat.ANTHROPIC else data
    return _closing_of(tail) + event


def _closing_of(tail: bytes) -> bytes:
    """What ends the event that `tail` is in (WHATWG HTML, 9.2.6: lines end in LF, CRLF or CR)."""
    unified = tail.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not unified or unified.endswith(b"\n\n"):
        return b""
    return b"\n" if unified.endswith(b"\n") else b"\n\n"


def _shape(wire_format: WireFormat, failure: Failure) -> dict[str, object]:
    status, message = failure.status, failure.message
    if wire_format is WireFormat.ANTHROPIC:
        fallback = "invalid_request_error" if status < 500 else "api_error"
        kind = _ANTHROPIC_TYPE.get(status, fallback)
        return {"type": "error", "error": {"type": kind, "message": message}}
    fallback = "invalid_request_error" if status < 500 else "server_error"
    kind = _OPENAI_TYPE.get(status, fallback)
    return {"error": {"message": message, "type": kind, "param": None, "code": failure.code}}


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


def _has_shape(wire_format: WireFormat, body: bytes) -> bool:
    shape = _AnthropicShape if wire_format is WireFormat.ANTHROPIC else _OpenAIShape
    try:
        msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
