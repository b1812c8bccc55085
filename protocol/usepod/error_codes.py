"""The error codes of this dialect, and ours mapped onto them and back."""

from typing import Final

from provider_agent.protocol.errors import ErrorCode, known_code

ERROR_CODES: Final[dict[ErrorCode, str]] = {
    ErrorCode.BAD_REQUEST: "internal",
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: "internal",
    ErrorCode.CANCELLED: "internal",
    ErrorCode.MODEL_NOT_LOADED: "model_not_loaded",
    ErrorCode.FORMAT_NOT_SUPPORTED: "model_not_loaded",
    ErrorCode.OUT_OF_CAPACITY: "out_of_capacity",
    ErrorCode.DRAINING: "out_of_capacity",
    ErrorCode.DEADLINE_EXCEEDED: "backend_timeout",
    ErrorCode.SLOW_CONSUMER: "internal",
    ErrorCode.BACKEND_UNREACHABLE: "backend_unreachable",
    ErrorCode.BACKEND_TIMEOUT: "backend_timeout",
    ErrorCode.BACKEND_OVERLOADED: "out_of_capacity",
    ErrorCode.BACKEND_ERROR: "internal",
    ErrorCode.AUTH_REJECTED_BY_BACKEND: "auth_rejected_by_backend",
    ErrorCode.INVALID_RESPONSE: "internal",
    ErrorCode.INTERNAL: "internal",
}
"""The dialect has no code for a mistake of the client: the Rust agent reports `internal` too."""


def wire_code(code: str) -> str:
    """Return the code to send for one of ours; `internal` for an unknown one."""
    return ERROR_CODES[known_code(code)]


_BY_WIRE_CODE: Final[dict[str, ErrorCode]] = {
    "out_of_capacity": ErrorCode.OUT_OF_CAPACITY,
    "model_not_loaded": ErrorCode.MODEL_NOT_LOADED,
    "backend_unreachable": ErrorCode.BACKEND_UNREACHABLE,
    "backend_timeout": ErrorCode.BACKEND_TIMEOUT,
    "auth_rejected_by_backend": ErrorCode.AUTH_REJECTED_BY_BACKEND,
    "internal": ErrorCode.INTERNAL,
}


def our_code(wire: str) -> ErrorCode:
    """Return our code for a received one; `INTERNAL` for an unknown one."""
    return _BY_WIRE_CODE.get(wire, ErrorCode.INTERNAL)
