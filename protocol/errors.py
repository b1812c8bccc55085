"""The registry of error codes: the same string on the wire, in logs, in metrics and in the docs.

For each code, the registry names the party at fault, so that a client's mistake never counts
against a provider. It also says whether another provider may be tried with the same job.
"""

from enum import StrEnum
from typing import Final

from msgspec import Struct


class Fault(StrEnum):
    """The party that caused a failure."""

    CLIENT = "client"
    PROVIDER = "provider"
    COORDINATOR = "coordinator"


class ErrorCode(StrEnum):
    """Why a job failed. `REGISTRY` holds the meaning of each code."""

    BAD_REQUEST = "bad_request"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    CANCELLED = "cancelled"
    MODEL_NOT_LOADED = "model_not_loaded"
    FORMAT_NOT_SUPPORTED = "format_not_supported"
    OUT_OF_CAPACITY = "out_of_capacity"
    DRAINING = "draining"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    SLOW_CONSUMER = "slow_consumer"
    BACKEND_UNREACHABLE = "backend_unreachable"
    BACKEND_TIMEOUT = "backend_timeout"
    BACKEND_OVERLOADED = "backend_overloaded"
    BACKEND_ERROR = "backend_error"
    AUTH_REJECTED_BY_BACKEND = "auth_rejected_by_backend"
    INVALID_RESPONSE = "invalid_response"
    INTERNAL = "internal"


class LastError(Struct, frozen=True):
    """The last job that failed through the provider's fault.

    Attributes:
        at: when, as POSIX time in seconds.
        code: why.
    """

    at: float
    code: ErrorCode


class ErrorEntry(Struct, frozen=True):
    """One row of the registry.

    Attributes:
        fault: the party that caused the failure.
        retryable: whether another provider may be tried with the same job.
        meaning: one human-readable sentence.
    """

    fault: Fault
    retryable: bool
    meaning: str


REGISTRY: Final[dict[ErrorCode, ErrorEntry]] = {
    ErrorCode.BAD_REQUEST: ErrorEntry(
        Fault.CLIENT,
        False,
        "The request is invalid: not one JSON object, or rejected by the provider or its server.",
    ),
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: ErrorEntry(
        Fault.CLIENT, False, "Prompt and answer do not fit the model's context window."
    ),
    ErrorCode.CANCELLED: ErrorEntry(
        Fault.CLIENT, False, "The coordinator cancelled the job; the upstream request was closed."
    ),
    ErrorCode.MODEL_NOT_LOADED: ErrorEntry(
        Fault.COORDINATOR, True, "No backend of this agent serves the model now."
    ),
    ErrorCode.FORMAT_NOT_SUPPORTED: ErrorEntry(
        Fault.COORDINATOR,
        True,
        "The model is served, but not in this format or operation.",
    ),
    ErrorCode.OUT_OF_CAPACITY: ErrorEntry(
        Fault.COORDINATOR,
        True,
        "The agent has no room for the job now: its jobs or tokens are at a limit.",
    ),
    ErrorCode.DRAINING: ErrorEntry(
        Fault.PROVIDER, True, "The agent is stopping and did not complete the job."
    ),
    ErrorCode.DEADLINE_EXCEEDED: ErrorEntry(
        Fault.PROVIDER, False, "The job's deadline passed before the response was complete."
    ),
    ErrorCode.SLOW_CONSUMER: ErrorEntry(
        Fault.CLIENT,
        False,
        "The response was not read; too much of its window stayed unacknowledged for too long.",
    ),
    ErrorCode.BACKEND_UNREACHABLE: ErrorEntry(
        Fault.PROVIDER, True, "The connection to the inference server failed."
    ),
    ErrorCode.BACKEND_TIMEOUT: ErrorEntry(
        Fault.PROVIDER, True, "The inference server was silent for too long."
    ),
    ErrorCode.BACKEND_OVERLOADED: ErrorEntry(
        Fault.PROVIDER, True, "The inference server is loading, busy or rate-limiting."
    ),
    ErrorCode.BACKEND_ERROR: ErrorEntry(
        Fault.PROVIDER, True, "The inference server failed while it processed the job."
    ),
    ErrorCode.AUTH_REJECTED_BY_BACKEND: ErrorEntry(
        Fault.PROVIDER, True, "The inference server rejected the operator's key or balance."
    ),
    ErrorCode.INVALID_RESPONSE: ErrorEntry(
        Fault.PROVIDER,
        True,
        "The inference server's response ended early or is malformed.",
    ),
    ErrorCode.INTERNAL: ErrorEntry(
        Fault.PROVIDER, True, "A defect of the agent; please report it with the agent's log."
    ),
}


def known_code(code: str) -> ErrorCode:
    """Return the member for `code`; `INTERNAL` for a code that this version does not know."""
    try:
        return ErrorCode(code)
    except ValueError:
        return ErrorCode.INTERNAL


def entry_for(code: str) -> ErrorEntry:
    """Return the registry entry of `code`; that of `internal` for an unknown code."""
    return REGISTRY[known_code(code)]
