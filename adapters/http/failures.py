"""The errors of both HTTP clients, with the same texts."""

import os
import socket
import ssl
from typing import Final

from provider_agent.adapters.errors import (
    BackendTimeout,
    InvalidResponse,
    Transport,
    Unreachable,
)

_NOT_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"})
"""Errors of OpenSSL when the first bytes of a server are not TLS."""


def connect_timeout() -> BackendTimeout:
    """The connection did not open in time."""
    return BackendTimeout("the connection did not open in time (connect timeout)")


def response_timeout() -> BackendTimeout:
    """The response was not complete in time."""
    return BackendTimeout("the server did not complete its response in time")


def invalid_url() -> Unreachable:
    """The URL cannot be requested."""
    return Unreachable("the backend's url is not valid")


def no_response() -> Transport:
    """The connection was lost before the head of the response was complete."""
    return Transport("the server closed the connection without a response")


def broken_response() -> Transport:
    """The connection was lost in the body of the response."""
    return Transport("the connection broke in the middle of the response")


def malformed_response() -> InvalidResponse:
    """The response violates HTTP."""
    return InvalidResponse("the server sent a malformed HTTP response")


def connect_failure(error: OSError, host: str) -> Unreachable:
    """The connection to `host` could not be opened, because of `error`."""
    if isinstance(error, ssl.SSLError):
        return _tls_failure(error)
    if isinstance(error, ConnectionRefusedError):
        return Unreachable("connection refused; is the server running, and is the address right?")
    if isinstance(error, socket.gaierror):
        advice = "check its spelling in the backend's url, and the DNS of this machine"
        return _unreachable("no such host", advice, details=f"no such host: {host}")
    return Unreachable(f"no connection ({_reason(error)})")


def proxy_failure(error: OSError, proxy: str) -> Unreachable:
    """The connection to the proxy at `proxy`, a `host:port`, could not be opened."""
    reason = "no such host" if isinstance(error, socket.gaierror) else _reason(error)
    details = f"the proxy {proxy} cannot be reached ({reason})"
    return _unreachable("the proxy cannot be reached", "check HTTPS_PROXY", details=details)


def plain_http() -> Unreachable:
    """A server answered without TLS at an `https` URL."""
    return _unreachable("the server speaks plain HTTP, not TLS", "begin the url with http://")


def tls_only() -> InvalidResponse:
    """A server answered with TLS at an `http` URL."""
    error = InvalidResponse("the server speaks TLS, not plain HTTP")
    error.advice = "begin the url with https://"
    return error


def _tls_failure(error: ssl.SSLError) -> Unreachable:
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = getattr(error, "verify_message", "") or "verification failed"
        problem = "the TLS handshake failed: the certificate is not valid"
        advice = "check the host in the url, the certificate and the clock of this machine"
        return _unreachable(problem, advice, details=f"{problem} ({reason})")
    if getattr(error, "reason", "") in _NOT_TLS:
        return plain_http()
    return _unreachable(
        "the TLS handshake failed", "check the url's scheme and the server's certificate"
    )


def _unreachable(message: str, advice: str, *, details: str = "") -> Unreachable:
    error = Unreachable(message)
    error.advice, error.details = advice, details
    return error


def _reason(error: OSError) -> str:
    number = error.errno  # the text of asyncio's exception repeats the address
    return os.strerror(number) if number else "network error"
