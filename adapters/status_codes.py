"""What a server's HTTP status, or the status inside an error frame, means in the error registry."""

import re
from typing import Final

import msgspec

from protocol.errors import ErrorCode

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

_CONTEXT_LENGTH: Final = re.compile(
    rb"exceed_context_size|context_length_exceeded|maximum context length|context size"
    rb"|context window|context length",
    re.IGNORECASE,
)
"""How the servers word it: llama.cpp's error type, OpenAI's error code, vLLM's and others' text."""


def code_for_status(status: int, body: bytes) -> ErrorCode:
    """The registry's code for a status that is not a success."""
    if status in (400, 413, 422, 500) and _CONTEXT_LENGTH.search(body):
        # llama.cpp answers 500 for some overflows that are 400 elsewhere.
        return ErrorCode.CONTEXT_LENGTH_EXCEEDED
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 400 <= status < 500:
        return ErrorCode.BAD_REQUEST
    return ErrorCode.BACKEND_ERROR if status >= 500 else ErrorCode.INVALID_RESPONSE


MAX_MESSAGE_CHARS: Final = 500
"""Of a server's own words: they say what is wrong in one sentence or not at all."""

_BY_TYPE: Final = {
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
}
"""Types in error objects (Anthropic's API reference, llama.cpp's server) as statuses."""


class _Availability(msgspec.Struct):
    """OpenRouter's word on trying again (since August 2026)."""

    retryable: bool | None = None
    retry_after: float | None = None


class _Inner(msgspec.Struct):
    message: str = ""
    type: str = ""
    code: int | str | None = None
    availability: _Availability | None = None


class _ErrorBody(msgspec.Struct):
    error: _Inner | str = ""
    message: str = ""
    error_message: str = ""
    type: str = ""
    code: int | str | None = None

    @property
    def inner(self) -> _Inner:
        if isinstance(self.error, _Inner):
            return self.error
        return _Inner(self.error or self.message or self.error_message, self.type, self.code)


def _inner(body: bytes) -> _Inner:
    try:
        return msgspec.json.decode(body, type=_ErrorBody).inner
    except (ValueError, RecursionError):
        return _Inner()


def code_for_error(body: bytes) -> ErrorCode:
    """The registry's code for an error without a status: inside a stream, or in a 200."""
    inner = _inner(body)
    status = inner.code if isinstance(inner.code, int) else _BY_TYPE.get(inner.type, 500)
    return code_for_status(status if 400 <= status <= 599 else 500, body)


def server_message(body: bytes) -> str:
    """The server's own sentence in an error body of any of the known shapes; "" without one."""
    return " ".join(_inner(body).message.split())[:MAX_MESSAGE_CHARS]


def server_advice(body: bytes) -> tuple[bool | None, float | None]:
    """(may it be tried again, after how many seconds) in an error body; None where it is silent."""
    advice = _inner(body).availability or _Availability()
    after = advice.retry_after
    return advice.retryable, after if after is not None and after >= 0 else None
