"""The errors that servers report, by a status or in a response, without secrets."""

from collections.abc import Collection

from provider_agent.adapters.base import BackendError, BadStatus, ErrorInStream, InvalidResponse
from provider_agent.adapters.responses.events import ResponseFailure
from provider_agent.adapters.responses.redaction import redact_bytes
from provider_agent.adapters.responses.status_codes import (
    code_for_status,
    retry_advice,
    server_message,
)
from provider_agent.protocol.errors import ErrorCode, Fault, entry_for
from provider_agent.protocol.limits import MAX_ERROR_BODY_BYTES


def status_error(
    status: int, body: bytes, secrets: Collection[str], wait_s: float | None = None
) -> BadStatus:
    """Return the error for a response without success status.

    Args:
        status: its status.
        body: its body.
        secrets: values to remove from the body.
        wait_s: the wait that its headers ask for. A wait in its body takes precedence.
    """
    clean = redact_bytes(body, MAX_ERROR_BODY_BYTES, secrets)
    code = code_for_status(status, clean)
    retryable, after_s = retry_advice(clean)
    wait_s = after_s if after_s is not None else wait_s
    error = BadStatus(status, clean, code, wait_s, _message(code, clean))
    error.retryable = retryable
    return error


def response_error(failure: ResponseFailure, secrets: Collection[str]) -> BackendError:
    """Return the error for a response with a success status that failed.

    Args:
        failure: why it failed.
        secrets: values to remove from the error that it contains.
    """
    if not failure.body:
        return InvalidResponse(failure.message)
    body = redact_bytes(failure.body, MAX_ERROR_BODY_BYTES, secrets)
    error = ErrorInStream(body, failure.code, _message(failure.code, body))
    error.retryable, error.retry_after_s = retry_advice(body)
    return error


def _message(code: ErrorCode, body: bytes) -> str:
    """Return the server's message if it is about an error of the client; else "".

    Other messages may contain details of the operator's account.
    """
    return server_message(body) if entry_for(code).fault is Fault.CLIENT else ""
