import asyncio
import errno
import os
import re
import socket
import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from provider_agent.adapters.errors import (
    BackendError,
    BackendTimeout,
    BadStatus,
    InvalidResponse,
    Transport,
    Unreachable,
)
from provider_agent.adapters.http.aiohttp_errors import map_aiohttp_errors
from provider_agent.protocol.errors import ErrorCode

CONNECTION_KEY = ConnectionKey("host", 80, False, True, None, None, None)
REQUEST = aiohttp.RequestInfo(URL("http://host"), "GET", headers=None, real_url=URL("http://host"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (aiohttp.ConnectionTimeoutError(), BackendTimeout, "connect timeout"),
        (TimeoutError(), BackendTimeout, "did not complete its response"),
        (
            aiohttp.ClientConnectorError(CONNECTION_KEY, ConnectionRefusedError(111, "refused")),
            Unreachable,
            "connection refused",
        ),
        (
            aiohttp.ClientConnectorDNSError(CONNECTION_KEY, socket.gaierror(-2, "unknown")),
            Unreachable,
            "no such host",
        ),
        (
            aiohttp.ClientConnectorSSLError(CONNECTION_KEY, ssl.SSLError(1, "wrong version")),
            Unreachable,
            "TLS",
        ),
        (
            aiohttp.ClientConnectorError(
                CONNECTION_KEY, OSError(errno.ENETUNREACH, "Connect call failed")
            ),
            Unreachable,
            re.escape(os.strerror(errno.ENETUNREACH)),
        ),
        (
            aiohttp.ClientConnectorError(CONNECTION_KEY, OSError("several")),
            Unreachable,
            "network error",
        ),
        (aiohttp.InvalidURL("nonsense"), Unreachable, "url"),
        (aiohttp.ClientPayloadError(), Transport, "middle"),
        (aiohttp.ClientResponseError(REQUEST, ()), InvalidResponse, "malformed HTTP"),
        (aiohttp.ServerDisconnectedError(), Transport, "closed"),
        (aiohttp.ClientOSError(104, "reset"), Transport, "closed"),
        (ConnectionResetError(104, "reset"), Transport, "closed"),
    ],
)
def test_aiohttp_error_becomes_a_backend_error_with_its_cause(
    raised: Exception, expected: type[BackendError], message: str
) -> None:
    with pytest.raises(expected, match=message) as caught, map_aiohttp_errors():
        raise raised

    assert caught.value.__cause__ is raised


@pytest.mark.parametrize("error", [BadStatus(500, b"", ErrorCode.BACKEND_ERROR), KeyError("x")])
def test_other_errors_propagate_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, map_aiohttp_errors():
        raise error

    assert caught.value is error


def test_cancellation_propagates() -> None:
    with pytest.raises(asyncio.CancelledError), map_aiohttp_errors():
        raise asyncio.CancelledError
