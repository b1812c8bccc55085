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

_SET_KEY: Final = "set api_key_env to the name of the variable that holds the key, or api_key_file"

_NEEDS_TLS: Final = (
    b"plain HTTP request was sent to HTTPS port",
    b"an HTTP request to an HTTPS server",
    b"speaking plain HTTP to an SSL-enabled server",
)
"""What nginx, the HTTP server of Go, and Apache answer to plain HTTP on a port for TLS."""


def is_loading(error: BackendError) -> bool:
    """Whether the server may be starting or loading its model.

    llama.cpp answers 503 while it loads; vLLM refuses connections.
    """
    if isinstance(error, Unreachable):
        # aiohttp's exceptions have the operating system's as an attribute.
        cause = getattr(error.__cause__, "os_error", error.__cause__)
        return isinstance(cause, ConnectionRefusedError)
    return isinstance(error, BadStatus) and error.status == 503


def failed_health(error: BackendError, *, native: bool, has_key: bool = True) -> BackendHealth:
    """Return the outcome of a health check that failed with this error.

    Args:
        error: why the check failed.
        native: whether the server is the operator's own; only such a server may be loading.
        has_key: whether the operator has set a key for the server.
    """
    problem, advice = _explain(error, has_key=has_key)
    return BackendHealth(
        False,
        last_error=f"{problem}; {advice}" if advice else problem,
        loading=native and is_loading(error),
        timed_out=isinstance(error, BackendTimeout),
        key_refused=isinstance(error, BadStatus) and error.status in _KEY_REFUSED,
        wrong_server=isinstance(error, InvalidResponse)
        or (isinstance(error, BadStatus) and error.status == 404),
        answered=isinstance(error, BadStatus),
        advice=advice,
    )


def describe(error: BackendError) -> str:
    """Return one line for the operator: what is wrong, and what to do about it."""
    problem, advice = _explain(error, has_key=True)
    return f"{problem}; {advice}" if advice else problem


def _explain(error: BackendError, *, has_key: bool) -> tuple[str, str]:
    """Return what is wrong, and what the operator can do; "" if that depends on the server."""
    if isinstance(error, BadStatus):
        return _explain_status(error, has_key=has_key)
    return error.details or str(error), error.advice


def _explain_status(error: BadStatus, *, has_key: bool) -> tuple[str, str]:
    status = error.status
    if status in _KEY_REFUSED and not has_key:
        return f"the server requires a key (status {status}), and none is set", _SET_KEY
    if status in _KEY_REFUSED:
        problem = f"the server refused the key, or requires one (status {status})"
        return problem, "check api_key_env or api_key_file"
    if status == 503:
        return "the server is loading its model or overloaded (status 503); it is checked again", ""
    if status == 404:
        return "the server does not know this address (status 404); are kind and url right?", ""
    if status == 400 and any(text in error.body for text in _NEEDS_TLS):
        return "the server speaks TLS, not plain HTTP (status 400)", "begin the url with https://"
    return str(error), ""
