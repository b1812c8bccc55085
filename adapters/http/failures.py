"""The errors of both HTTP clients, with the same texts."""

import os
import socket
import ssl

from provider_agent.adapters.errors import (
    BackendTimeout,
    InvalidResponse,
    Transport,
    Unreachable,
)


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


def connect_failure(error: OSError) -> Unreachable:
    """The connection could not be opened, because of `error`."""
    if isinstance(error, ssl.SSLError):
        return Unreachable(
            "the TLS handshake failed; check the url's scheme and the server's certificate"
        )
    if isinstance(error, ConnectionRefusedError):
        return Unreachable("connection refused; is the server running, and is the address right?")
    if isinstance(error, socket.gaierror):
        return Unreachable("no such host; check the backend's url")
    number = error.errno  # the text of asyncio's exception repeats the address
    return Unreachable(f"no connection ({os.strerror(number) if number else 'network error'})")
