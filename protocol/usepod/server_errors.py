"""The status and the body of a server's error, which the dialect has only inside `message`.

The Rust agent reports them in the form of `message_of`, with the code `internal` also for mistakes
of the client (recorded).
"""

import re
from typing import Final

from msgspec import Struct

from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.limits import MAX_ERROR_BODY_BYTES
from provider_agent.protocol.usepod.error_codes import our_code

_MESSAGE: Final = re.compile(r"backend returned HTTP (\d{3}): (.*)", re.DOTALL)

_CODES: Final = {
    400: ErrorCode.BAD_REQUEST,
    404: ErrorCode.MODEL_NOT_LOADED,
    413: ErrorCode.BAD_REQUEST,
    422: ErrorCode.BAD_REQUEST,
    429: ErrorCode.BACKEND_OVERLOADED,
    503: ErrorCode.BACKEND_OVERLOADED,
}


class ServerError(Struct, frozen=True):
    """What a `job_error` says.

    Attributes:
        code: our code.
        message: human-readable.
        status: the server's HTTP status; None if the message does not contain it.
        body: the server's error body.
    """

    code: ErrorCode
    message: str
    status: int | None = None
    body: bytes = b""


def message_of(status: int, body: str) -> str:
    """Return the message for an error of a server."""
    return f"backend returned HTTP {status}: {body}"


def read_error(wire_code: str, message: str) -> ServerError:
    """Return what a `job_error` says; the server's status decides what `internal` means."""
    code = our_code(wire_code)
    found = _MESSAGE.fullmatch(message)
    status = 0 if found is None else int(found[1])
    if found is None or status < 400:
        return ServerError(code, message)
    if code is ErrorCode.INTERNAL:
        code = _CODES.get(status, ErrorCode.BACKEND_ERROR if status >= 500 else code)
    text = f"The inference server answered with status {status}."
    return ServerError(code, text, status, found[2].encode()[:MAX_ERROR_BODY_BYTES])
