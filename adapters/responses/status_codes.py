"""Maps HTTP statuses and error bodies of servers to the error registry of the protocol."""

import re
from typing import Final

import msgspec

from provider_agent.adapters.responses.retry_after import MAX_RETRY_AFTER_S
from provider_agent.protocol.errors import ErrorCode

_CODE_BY_STATUS: Final = {
    401: ErrorCode.AUTH_REJECTED_BY_BACKEND,
    402: ErrorCode.AUTH_REJECTED_BY_BACKEND,
    403: ErrorCode.AUTH_REJECTED_BY_BACKEND,
    404: ErrorCode.MODEL_NOT_LOADED,
    # About the agent's connection or headers, which the client does not choose.
    407: ErrorCode.BACKEND_ERROR,
    421: ErrorCode.BACKEND_ERROR,
    426: ErrorCode.BACKEND_ERROR,
    431: ErrorCode.BACKEND_ERROR,
    408: ErrorCode.BACKEND_TIMEOUT,
    410: ErrorCode.MODEL_NOT_LOADED,
    429: ErrorCode.BACKEND_OVERLOADED,
    501: ErrorCode.FORMAT_NOT_SUPPORTED,
    503: ErrorCode.BACKEND_OVERLOADED,
    504: ErrorCode.BACKEND_TIMEOUT,
    529: ErrorCode.BACKEND_OVERLOADED,
}

_INVALID_REQUEST: Final = (
    # llama.cpp (recorded; "Jinja Exception" is how a chat template rejects a conversation)
    rb"' is required\"",
    rb"(?:image|audio|video) input is not supported",
    rb"Failed to parse (?:tools|messages)",
    rb"Unknown reasoning format",
    rb"Cannot use (?:both json_schema and grammar|custom grammar)",
    rb"Jinja Exception",
    rb"Unexpected empty grammar stack",  # no token matches the grammar, such as `[z-a]`
    # vLLM (recorded): errors of Python for a field of the wrong type, or a tool without `function`
    rb"'(?:int|float|bool|str|list|dict)' object ",
    rb'"message": ?"\'\w+\'"',
    # Ollama (its source)
    rb"invalid JSON schema in format",
    rb"json: cannot unmarshal",
    rb"does not support (?:tools|thinking)",
)

# Statuses, a pattern of the body, and the code. The first that matches applies.
_CODE_BY_BODY: Final = tuple(
    (frozenset(statuses), re.compile(pattern, re.IGNORECASE), code)
    for statuses, pattern, code in (
        # llama.cpp's error type (with 500 for some overflows), OpenAI's error code, message texts.
        (
            (400, 413, 422, 500),
            (
                rb"exceed_context_size|context_length_exceeded|max_model_len"
                rb"|context (?:size|window|length)"
                rb"|is too large to process"  # llama.cpp: embeddings over the physical batch
            ),
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        ),
        # The agent sets `model` in a request, so an error about it is not the client's fault.
        # LM Studio, Venice and llama.cpp's router answer 400 for an unknown model. A message may
        # quote the client, such as the name of a tool, so its text is matched only at its start.
        (
            (400,),
            (
                rb'"param": ?"model"|"(?:code|type)": ?"model_not_found"'
                rb'|": ?"(?:no models? loaded|(?:[a-z]+ )?model\b[^"]{0,200} not found)'
            ),
            ErrorCode.MODEL_NOT_LOADED,
        ),
        # Answers of vLLM's pooling models and Ollama's embedding models to an operation that the
        # model does not support.
        (
            (400,),
            (
                rb'": ?"(?:(?:the|this) )?\S{1,520} does not support '
                rb"(?:chat\b|generate\b|[a-z ]{0,40}API)"
            ),
            ErrorCode.FORMAT_NOT_SUPPORTED,
        ),
        # The `previous_response_id` of a Responses request does not exist (vLLM, OpenAI).
        (
            (404,),
            rb'"param": ?"response_id"|previous_response_not_found',
            ErrorCode.BAD_REQUEST,
        ),
        # OpenRouter's moderation or guardrails rejected the prompt, not the key.
        (
            (403,),
            rb"flagged_input|content_policy_violation|Request blocked",
            ErrorCode.BAD_REQUEST,
        ),
        # These servers answer 500 to invalid requests. As failures of the server they would be
        # repeated, and would let a client open the backend's breaker.
        ((500,), rb"|".join(_INVALID_REQUEST), ErrorCode.BAD_REQUEST),
    )
)


def code_for_status(status: int, body: bytes) -> ErrorCode:
    """Return the registry's code for a status that is not a success."""
    for statuses, pattern, code in _CODE_BY_BODY:
        if status in statuses and pattern.search(body):
            return code
    if status in _CODE_BY_STATUS:
        return _CODE_BY_STATUS[status]
    if 400 <= status < 500:
        return ErrorCode.BAD_REQUEST
    return ErrorCode.BACKEND_ERROR if status >= 500 else ErrorCode.INVALID_RESPONSE


MAX_MESSAGE_CHARS: Final = 500
"""A server's message is cut to this length."""

_STATUS_BY_NAME: Final = {
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
    # Codes of OpenAI's API, mostly in Responses.
    "context_length_exceeded": 400,
    "invalid_prompt": 400,
    "content_policy_violation": 400,
    "model_not_found": 404,
    "invalid_api_key": 401,
    "insufficient_quota": 402,
    "rate_limit_exceeded": 429,
}
"""The HTTP status for each `code` or `type` that error objects use instead of a number."""


class _Availability(msgspec.Struct):
    """OpenRouter's retry advice (since August 2026)."""

    retryable: object = None
    retry_after: object = None


class _ErrorObject(msgspec.Struct):
    """An error object; untyped, so that a field of an unexpected type does not hide the others."""

    message: object = None
    type: object = None
    code: object = None
    availability: object = None


class _Response(msgspec.Struct):
    """The `response` object of a `response.failed` event."""

    error: msgspec.Raw = msgspec.Raw()


class _ErrorBody(msgspec.Struct):
    """The outermost object of an error body or of an event."""

    error: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()
    message: object = None
    error_message: object = None
    type: object = None
    error_type: object = None
    code: object = None


def _error_object(body: bytes) -> _ErrorObject:
    """Return the error in a body or event of any known shape; without one, an empty object."""
    try:
        # Invalid UTF-8 must not hide the error.
        outer = msgspec.json.decode(body.decode("utf-8", "replace"), type=_ErrorBody)
        error = outer.error
        if not error and outer.response:  # `response.failed`
            error = msgspec.json.decode(outer.response, type=_Response).error
        if bytes(error).startswith(b"{"):
            return msgspec.json.decode(error, type=_ErrorObject)
        text: object = msgspec.json.decode(error) if error else None
    except (ValueError, RecursionError):
        return _ErrorObject()
    message = next((m for m in (text, outer.message, outer.error_message) if m), None)
    return _ErrorObject(message, outer.error_type or outer.type, outer.code)


def code_for_error(body: bytes) -> ErrorCode:
    """Return the registry's code for an error in a response with a success status."""
    error = _error_object(body)
    status = _status_of(error.code) or _status_of(error.type) or 500
    return code_for_status(status, body)


def _status_of(value: object) -> int | None:
    """Return the HTTP status that the code or type of an error stands for; None if unknown."""
    if isinstance(value, str):
        status = (
            int(value) if re.fullmatch(r"[45]\d\d", value, re.ASCII) else _STATUS_BY_NAME.get(value)
        )
    else:
        status = value if isinstance(value, int) else None
    return status if status is not None and 400 <= status <= 599 else None


def server_message(body: bytes) -> str:
    """Return the server's message in an error body of any known shape; "" without one."""
    message = _error_object(body).message
    return " ".join(message.split())[:MAX_MESSAGE_CHARS] if isinstance(message, str) else ""


def retry_advice(body: bytes) -> tuple[bool | None, float | None]:
    """Return (retryable, seconds to wait) from an error body; None for each that it leaves out."""
    try:
        advice = msgspec.convert(_error_object(body).availability, _Availability)
    except ValueError:
        return None, None
    retryable, after = advice.retryable, advice.retry_after
    seconds = None
    if isinstance(after, int | float) and not isinstance(after, bool):
        seconds = float(after) if 0 <= after < MAX_RETRY_AFTER_S else None
    return retryable if isinstance(retryable, bool) else None, seconds
