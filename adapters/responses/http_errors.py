"""Maps aiohttp's exceptions to `BackendError`, and describes errors for the operator."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import aiohttp

from provider_agent.adapters.base import (
    BackendError,
    BackendHealth,
    BackendTimeout,
    BadStatus,
    InvalidResponse,
    Transport,
    Unreachable,
)

_KEY_REFUSED: Final = frozenset({401, 403})


@contextmanager
def map_aiohttp_errors() -> Iterator[None]:
    """Raise a `BackendError` for each exception of aiohttp and for `OSError`, chained to it."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise BackendTimeout("the connection did not open in time (connect timeout)") from error
    except TimeoutError as error:
        raise BackendTimeout("the server did not complete its response in time") from error
    except aiohttp.ClientConnectorError as error:
        raise Unreachable(_connect_failure(error)) from error
    except aiohttp.InvalidURL as error:
        raise Unreachable("the backend's url is not valid") from error
    except aiohttp.ClientPayloadError as error:
        raise Transport("the connection broke in the middle of the response") from error
    except aiohttp.ClientResponseError as error:
        raise InvalidResponse("the server sent a malformed HTTP response") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Transport("the server closed the connection without a response") from error


def _connect_failure(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return "the TLS handshake failed; check the url's scheme and the server's certificate"
    if isinstance(error.os_error, ConnectionRefusedError):
        return "connection refused; is the server running, and is the address right?"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "no such host; check the backend's url"
    number = error.os_error.errno  # the text of asyncio's exception repeats the address
    return f"no connection ({os.strerror(number) if number else 'network error'})"


def is_loading(error: BackendError) -> bool:
    """Whether the server may be starting or loading its model.

    llama.cpp answers 503 while it loads; vLLM refuses connections.
    """
    if isinstance(error, Unreachable) and isinstance(error.__cause__, aiohttp.ClientConnectorError):
        return isinstance(error.__cause__.os_error, ConnectionRefusedError)
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
