"""Errors for clients: status, code and text, for each error of an agent and of the coordinator."""

import math
from http import HTTPStatus
from typing import Final

from msgspec import Struct

from provider_agent.coordinator.agents.dispatcher import MAX_RETRY_S
from provider_agent.coordinator.reason import Reason
from provider_agent.coordinator.sessions.detached_session import LostJob
from provider_agent.protocol.errors import REGISTRY, ErrorCode, known_code
from provider_agent.protocol.formats import Operation
from provider_agent.protocol.frames import JobError
from provider_agent.protocol.limits import MAX_NAME_CHARS

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

_TEXTS: Final = {
    ErrorCode.CANCELLED: "The provider cancelled the request.",
    ErrorCode.MODEL_NOT_LOADED: "The provider does not serve the model at the moment.",
    ErrorCode.OUT_OF_CAPACITY: "The provider has no room for the request; try again soon.",
    ErrorCode.DRAINING: "The provider is stopping and did not complete the request.",
    ErrorCode.SLOW_CONSUMER: "The client did not read the response for too long.",
    ErrorCode.DEADLINE_EXCEEDED: "The time limit passed before the response was complete.",
    ErrorCode.BACKEND_ERROR: "The inference server failed while it processed the request.",
    ErrorCode.INTERNAL: "The provider failed because of a defect in its software.",
}
"""Texts for clients, where the meaning of the code in `REGISTRY` is for operators."""

_PASSED_THROUGH: Final = frozenset({ErrorCode.BAD_REQUEST, ErrorCode.CONTEXT_LENGTH_EXCEEDED})
"""Codes for which the client receives the server's own status and body."""

_ABOUT_THE_REQUEST: Final = frozenset(
    {*_PASSED_THROUGH, ErrorCode.MODEL_NOT_LOADED, ErrorCode.FORMAT_NOT_SUPPORTED}
)
"""Codes for which the client receives the agent's message. Other messages are for its operator."""

_OPERATOR_STATUSES: Final = frozenset({401, 402, 403, 407, 408, 421, 426, 429, 431})
"""Upstream statuses about the agent's access or connection to the server, not about the client's
request."""

_BY_STATUS_AND_CODE: Final = {
    (400, ErrorCode.BAD_REQUEST): {
        Reason.INVALID_JSON: "The request is not one JSON object.",
        Reason.INVALID_MODEL: (
            f"The request must be one JSON object with a `model` of 1 to {MAX_NAME_CHARS} "
            "characters."
        ),
    },
    (408, ErrorCode.BAD_REQUEST): {Reason.BODY_TIMEOUT: "The request body did not arrive in time."},
    (413, ErrorCode.BAD_REQUEST): {
        Reason.BODY_TOO_LARGE: "The request body is larger than the limit of {detail}."
    },
    (415, "unsupported_media_type"): {
        Reason.COMPRESSED_BODY: (
            "Send the request body without compression (no `Content-Encoding` header)."
        ),
        Reason.CONTENT_TYPE: (
            "Send the request as JSON, with the header `Content-Type: application/json`."
        ),
    },
    (400, ErrorCode.FORMAT_NOT_SUPPORTED): {
        Reason.WRONG_OPERATION: "The model `{model}` is offered, but not for {operation}.",
        Reason.STREAM_REQUIRED: (
            "The model `{model}` is offered for event streams only; send the request with "
            '`"stream": true`.'
        ),
    },
    (404, ErrorCode.MODEL_NOT_LOADED): {
        Reason.NOT_OFFERED: "The model `{model}` is not offered by any connected provider{detail}.",
        Reason.UNROUTABLE: "The model `{model}` is offered, but receives no requests: {detail}",
    },
    (429, "rate_limit_exceeded"): {
        Reason.REQUEST_LIMIT: "The limit of {detail} requests per minute is used up.",
        Reason.TOKEN_LIMIT: "The limit of {detail} tokens per minute is used up.",
    },
    (502, Reason.PROVIDER_LOST): {
        Reason.PROVIDER_LOST: "The connection to the provider that ran the request was lost.",
    },
    (503, ErrorCode.DRAINING): {
        Reason.COORDINATOR_STOPPING: "The coordinator is stopping.",
        Reason.PROVIDER_STOPPING: (
            "Every provider of the model `{model}` is stopping; try again soon."
        ),
    },
    (503, ErrorCode.OUT_OF_CAPACITY): {
        Reason.NO_AGENT: "No provider is connected to this coordinator; try again soon.",
        Reason.QUEUE_FULL: "Too many requests already wait for a provider; try again soon.",
        Reason.QUEUE_TIMEOUT: (
            "Every provider of the model `{model}` was busy for too long; try again soon."
        ),
        Reason.PROVIDER_OFFLINE: "No provider of the model `{model}` is connected; try again soon.",
        Reason.MODEL_WITHDRAWN: (
            "No provider can run the model `{model}` at the moment; try again soon."
        ),
        Reason.TOO_MANY_REQUESTS: (
            "The coordinator has too many concurrent requests; try again soon."
        ),
        Reason.NO_MEMORY: "The coordinator holds too many large requests; try again soon.",
    },
}
_BY_REASON: Final = {
    reason: (status, str(code), text)
    for (status, code), texts in _BY_STATUS_AND_CODE.items()
    for reason, text in texts.items()
}
"""Status, code and text of each error of the coordinator itself."""


class ClientError(Struct, frozen=True):
    """An error for a client, independent of the wire format.

    Attributes:
        status: the HTTP status.
        code: an `ErrorCode`, an agent's unknown code, or a name that only the HTTP API has.
        message: one human-readable sentence.
        retry_after_s: the `Retry-After` header; None for no header.
        upstream_body: the inference server's error body; sent instead of the coordinator's own
            if it is an error object of the wire format.
        reason: the cause, for errors of the coordinator itself whose code does not tell it.
    """

    status: int
    code: str
    message: str
    retry_after_s: int | None = None
    upstream_body: bytes = b""
    reason: Reason | None = None


def error_of_code(code: ErrorCode) -> ClientError:
    """Return the error for a code."""
    status = _STATUS[code]
    return ClientError(status, code.value, _text(code), _default_retry_s(status))


def error_of_reason(
    reason: Reason, model_id: str = "", operation: Operation = Operation.CHAT, detail: str = ""
) -> ClientError:
    """Return an error of the coordinator itself.

    Args:
        reason: the cause.
        model_id: the requested model.
        operation: the requested operation.
        detail: why the model is unroutable, which models are offered, or the limit.
    """
    status, code, template = _BY_REASON[reason]
    name = f"{operation.wire_format} {operation}"
    message = template.format(model=model_id, operation=name, detail=detail)
    return ClientError(status, code, message, _default_retry_s(status), reason=reason)


def error_of_job(error: JobError) -> ClientError:
    """Return the error for a `JobError` of an agent or, for a lost session, of the coordinator.

    If the inference server rejected the client's request, its 4xx status and body are forwarded.
    """
    if isinstance(error, LostJob):
        return error_of_reason(Reason(error.code))
    code = known_code(error.code)
    status, message = _STATUS[code], _text(code)
    if code in _ABOUT_THE_REQUEST:
        message = error.message or message
    if code is ErrorCode.MODEL_NOT_LOADED and error.upstream_status is None:
        # The agent offered the model a moment ago: its server is probably restarting.
        status, message = HTTPStatus.SERVICE_UNAVAILABLE, _text(code)
    upstream_body = b""
    if code in _PASSED_THROUGH:
        upstream_body = error.body
        upstream = error.upstream_status or 0
        if 400 <= upstream < 500 and upstream not in _OPERATOR_STATUSES:
            status = upstream
    retry_after_s = _default_retry_s(status)
    if retry_after_s is not None and error.retry_after_ms is not None:
        retry_after_s = max(1, min(MAX_RETRY_S, math.ceil(error.retry_after_ms / 1000)))
    return ClientError(status, error.code, message, retry_after_s, upstream_body)


def _text(code: ErrorCode) -> str:
    return _TEXTS.get(code, REGISTRY[code].meaning)


def _default_retry_s(status: int) -> int | None:
    return RETRY_AFTER_S if status == HTTPStatus.SERVICE_UNAVAILABLE else None
