"""Describes failed health checks for the operator."""

from typing import Final

from provider_agent.adapters.base import (
    BackendError,
    BackendHealth,
    BackendTimeout,
    BadStatus,
    InvalidResponse,
    Unreachable,
)

_KEY_REFUSED: Final = frozenset({401, 403})


def is_loading(error: BackendError) -> bool:
    """Whether the server may be starting or loading its model.

    llama.cpp answers 503 while it loads; vLLM refuses connections.
    """
    if isinstance(error, Unreachable):
        # aiohttp's exceptions have the operating system's as an attribute.
        cause = getattr(error.__cause__, "os_error", error.__cause__)
        return isinstance(cause, ConnectionRefusedError)
    return isinstance(error, BadStatus) and error.status == 503


def failed_health(error: BackendError, *, native: bool) -> BackendHealth:
    """Return the outcome of a health check that failed with this error.

    Args:
        error: why the check failed.
        native: whether the server is the operator's own; only such a server may be loading.
    """
    return BackendHealth(
        False,
        last_error=describe(error),
        loading=native and is_loading(error),
        timed_out=isinstance(error, BackendTimeout),
        key_refused=isinstance(error, BadStatus) and error.status in _KEY_REFUSED,
        wrong_server=isinstance(error, InvalidResponse)
        or (isinstance(error, BadStatus) and error.status == 404),
    )


def describe(error: BackendError) -> str:
    """Return one line for the operator: what is wrong, and what to do about it."""
    if isinstance(error, BadStatus) and error.status in _KEY_REFUSED:
        return (
            f"the server refused the key, or requires one (status {error.status}); check "
            "api_key_env or api_key_file"
        )
    if isinstance(error, BadStatus) and error.status == 503:
        return "the server is loading its model or overloaded (status 503); it is checked again"
    if isinstance(error, BadStatus) and error.status == 404:
        return "the server does not know this address (status 404); are kind and url right?"
    return str(error)
