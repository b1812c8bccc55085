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


class _Inner(msgspec.Struct):
    message: str = ""


class _ErrorBody(msgspec.Struct):
    error: _Inner | str = ""
    message: str = ""


def server_message(body: bytes) -> str:
    """The server's own sentence in an error body of any of the known shapes; "" without one."""
    try:
        found = msgspec.json.decode(body, type=_ErrorBody)
    except (ValueError, RecursionError):
        return ""
    text = found.error.message if isinstance(found.error, _Inner) else found.error
    return " ".join((text or found.message).split())[:MAX_MESSAGE_CHARS]


def parse_retry_after(value: str | None) -> float | None:
    """Seconds of a `Retry-After` header; None when there is none, or a date."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if 0 <= seconds < 86_400 else None
