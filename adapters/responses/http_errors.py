"""What aiohttp raises, in the words of the contract, and those words for an operator."""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp

from provider_agent.adapters.base import (
    BackendError,
    BackendTimeout,
    BadStatus,
    InvalidResponse,
    Transport,
    Unreachable,
)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn what aiohttp raises into the contract's errors, with the cause chained."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise BackendTimeout("the connection did not open in time (connect clock)") from error
    except (aiohttp.SocketTimeoutError, TimeoutError) as error:
        raise BackendTimeout("the server sent nothing for too long (silence clock)") from error
    except aiohttp.ClientConnectorError as error:
        raise Unreachable(_connect_reason(error)) from error
    except aiohttp.InvalidURL as error:
        raise Unreachable("the backend's url is not valid") from error
    except aiohttp.ClientPayloadError as error:
        raise Transport("the connection broke in the middle of the response") from error
    except aiohttp.ClientResponseError as error:
        raise InvalidResponse("the server does not speak HTTP as it should") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Transport("the server closed the connection without a response") from error


def _connect_reason(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return "the TLS handshake failed; check the url's scheme and the server's certificate"
    if isinstance(error.os_error, ConnectionRefusedError):
        return "connection refused; is the server running, and is the address right?"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "no such host; check the backend's url"
    if isinstance(error.os_error, ssl.SSLError):
        return "the TLS handshake failed"
    number = error.os_error.errno  # whose own text, not asyncio's, which repeats the address
    return f"no connection ({os.strerror(number) if number else 'network error'})"


def is_not_yet(error: BackendError) -> bool:
    """Whether a server that starts or loads its model looks like this: nothing is wrong so far.

    llama.cpp answers 503 while it loads; vLLM does not even listen.
    """
    if isinstance(error, Unreachable) and isinstance(error.__cause__, aiohttp.ClientConnectorError):
        return isinstance(error.__cause__.os_error, ConnectionRefusedError)
    return isinstance(error, BadStatus) and error.status == 503


def describe(error: BackendError) -> str:
    """What is wrong and what to do about it, in one line for an operator."""
    if isinstance(error, BadStatus) and error.status in (401, 403):
        return f"the server refused the key (status {error.status}); check api_key_env"
    if isinstance(error, BadStatus) and error.status == 503:
        return "the server is loading its model or overloaded (status 503); it is asked again"
    if isinstance(error, BadStatus) and error.status == 404:
        return "the server does not know this address (status 404); are kind and url right?"
    return str(error)
