"""What a server's HTTP status, or the error it reports inside an answer, means in the registry."""

import re
from typing import Final

import msgspec

from provider_agent.protocol.errors import ErrorCode

_BY_STATUS: Final = {
    401: ErrorCode.AUTH_REJECTED_BY_BACKEND,
    402: ErrorCode.AUTH_REJECTED_BY_BACKEND,
    403: ErrorCode.AUTH_REJECTED_BY_BACKEND,
    404: ErrorCode.MODEL_NOT_LOADED,
    408: ErrorCode.BACKEND_TIMEOUT,
    410: ErrorCode.MODEL_NOT_LOADED,
    429: ErrorCode.BACKEND_OVERLOADED,
    501: ErrorCode.FORMAT_NOT_SUPPORTED,
    503: ErrorCode.BACKEND_OVERLOADED,
    504: ErrorCode.BACKEND_TIMEOUT,
    529: ErrorCode.BACKEND_OVERLOADED,
}

_BY_WORDING: Final = tuple(
    (frozenset(statuses), re.compile(pattern, re.IGNORECASE), code)
    for statuses, pattern, code in (
        # llama.cpp's error type (with 500 for some overflows), OpenAI's error code, others' text.
        (
            (400, 413, 422, 500),
            (
                rb"exceed_context_size|context_length_exceeded|max_model_len"
                rb"|context (?:size|window|length)"
            ),
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        ),
        # The `model` in a request is the agent's own: a complaint about it is no client's mistake.
        # LM Studio, Venice and llama.cpp's router say 400 for a model that is not there.
        (
            (400,),
            rb'"param": ?"model"|model_not_found|no models? loaded|model[^"]{0,200} not found',
            ErrorCode.MODEL_NOT_LOADED,
        ),
        # vLLM's pooling models and Ollama's embedding models.
        (
            (400,),
            rb"does not support [a-z ]{0,40}API|does not support (?:chat|generate)\b",
            ErrorCode.FORMAT_NOT_SUPPORTED,
        ),
        # OpenRouter's moderation looks at the prompt, not at the key.
        ((403,), rb"flagged_input|content_policy_violation", ErrorCode.BAD_REQUEST),
        # llama.cpp says 500 for these mistakes of a request (seen on Messages and with images);
        # as failures of the server they would let a client take it out of service.
        ((500,), rb"' is required\"|(?:image|audio) input is not supported", ErrorCode.BAD_REQUEST),
    )
)


def code_for_status(status: int, body: bytes) -> ErrorCode:
    """The registry's code for a status that is not a success."""
    for statuses, wording, code in _BY_WORDING:
        if status in statuses and wording.search(body):
            return code
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 400 <= status < 500:
        return ErrorCode.BAD_REQUEST
    return ErrorCode.BACKEND_ERROR if status >= 500 else ErrorCode.INVALID_RESPONSE


MAX_MESSAGE_CHARS: Final = 500
"""Of a server's own words: they say what is wrong in one sentence or not at all."""

_BY_NAME: Final = {
    # Anthropic's API reference; llama.cpp's server.
    "authentication_error": 401,
    "permission_error": 403,
    "billing_error": 402,
    "not_found_error": 404,
    "request_too_large": 413,
    "invalid_request_error": 400,
    "rate_limit_error": 429,
    "overloaded_error": 529,
    "unavailable_error": 503,
    "timeout_error": 504,
    "not_supported_error": 501,
    "exceed_context_size_error": 400,
    # vLLM, whose errors in Messages have no code.
    "BadRequestError": 400,
    "NotFoundError": 404,
    "Service Unavailable": 503,
    # Codes of OpenAI's API, in Responses above all.
    "context_length_exceeded": 400,
    "invalid_prompt": 400,
    "content_policy_violation": 400,
    "model_not_found": 404,
    "invalid_api_key": 401,
    "insufficient_quota": 402,
    "rate_limit_exceeded": 429,
}
"""What error objects say instead of a status, as one."""


class _Availability(msgspec.Struct):
    """OpenRouter's word on trying again (since August 2026)."""

    retryable: object = None
    retry_after: object = None


class _Inner(msgspec.Struct):
    """Fields that may hold anything: one of a wrong type must not hide the others."""

    message: object = None
    type: object = None
    code: object = None
    availability: object = None


class _Response(msgspec.Struct):
    error: msgspec.Raw = msgspec.Raw()


class _ErrorBody(msgspec.Struct):
    error: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()
    message: object = None
    error_message: object = None
    type: object = None
    error_type: object = None
    code: object = None


def _inner(body: bytes) -> _Inner:
    """The error object in a body or event of any of the known shapes."""
    try:
        # A byte that is no UTF-8 must not hide what the rest says.
        outer = msgspec.json.decode(body.decode("utf-8", "replace"), type=_ErrorBody)
        error = outer.error
        if not error and outer.response:  # `response.failed`
            error = msgspec.json.decode(outer.response, type=_Response).error
        if bytes(error).startswith(b"{"):
            return msgspec.json.decode(error, type=_Inner)
        told: object = msgspec.json.decode(error) if error else None
    except (ValueError, RecursionError):
        return _Inner()
    words = next((w for w in (told, outer.message, outer.error_message) if w), None)
    return _Inner(words, outer.error_type or outer.type, outer.code)


def code_for_error(body: bytes) -> ErrorCode:
    """The registry's code for an error without a status: inside a stream, or in a 200."""
    inner = _inner(body)
    status = next((s for s in (_as_status(inner.code), _as_status(inner.type)) if s), 500)
    return code_for_status(status, body)


def _as_status(told: object) -> int | None:
    """A code or type as the HTTP status that it stands for."""
    if isinstance(told, str):
        status = int(told) if re.fullmatch(r"[45]\d\d", told, re.ASCII) else _BY_NAME.get(told)
    else:
        status = told if isinstance(told, int) else None
    return status if status is not None and 400 <= status <= 599 else None


def server_message(body: bytes) -> str:
    """The server's own sentence in an error body of any of the known shapes; "" without one."""
    message = _inner(body).message
    return " ".join(message.split())[:MAX_MESSAGE_CHARS] if isinstance(message, str) else ""


def server_advice(body: bytes) -> tuple[bool | None, float | None]:
    """(may it be tried again, after how many seconds) in an error body; None where it is silent."""
    try:
        advice = msgspec.convert(_inner(body).availability, _Availability)
    except ValueError:
        return None, None
    retryable, after = advice.retryable, advice.retry_after
    seconds = float(after) if isinstance(after, int | float) and 0 <= after < 86_400 else None
    return retryable if isinstance(retryable, bool) else None, seconds
