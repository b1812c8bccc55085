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

from provider_agent.adapters.base import (
    BackendError,
    BackendTimeout,
    BadStatus,
    InvalidResponse,
    MissingApiKey,
    Transport,
    Unreachable,
)
from provider_agent.adapters.responses.http_errors import describe, is_not_yet, translated_errors
from provider_agent.protocol.errors import ErrorCode

KEY = ConnectionKey("host", 80, False, True, None, None, None)
REQUEST = aiohttp.RequestInfo(URL("http://host"), "GET", headers=None, real_url=URL("http://host"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("raised", "translated", "words"),
    [
        (aiohttp.ConnectionTimeoutError(), BackendTimeout, "connect clock"),
        (aiohttp.SocketTimeoutError(), BackendTimeout, "silence clock"),
        (TimeoutError(), BackendTimeout, "silence clock"),
        (
            aiohttp.ClientConnectorError(KEY, ConnectionRefusedError(111, "refused")),
            Unreachable,
            "connection refused",
        ),
        (
            aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(-2, "unknown")),
            Unreachable,
            "no such host",
        ),
        (
            aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "wrong version")),
            Unreachable,
            "TLS",
        ),
        (
            aiohttp.ClientConnectorError(KEY, OSError(errno.ENETUNREACH, "Connect call failed")),
            Unreachable,
            re.escape(os.strerror(errno.ENETUNREACH)),
        ),
        (aiohttp.ClientConnectorError(KEY, OSError("several")), Unreachable, "network error"),
        (aiohttp.InvalidURL("nonsense"), Unreachable, "url"),
        (aiohttp.ClientPayloadError(), Transport, "middle"),
        (aiohttp.ClientResponseError(REQUEST, ()), InvalidResponse, "HTTP"),
        (aiohttp.ServerDisconnectedError(), Transport, "closed"),
        (aiohttp.ClientOSError(104, "reset"), Transport, "closed"),
        (ConnectionResetError(104, "reset"), Transport, "closed"),
    ],
)
def test_every_failure_has_its_error(
    raised: Exception, translated: type[BackendError], words: str
) -> None:
    with pytest.raises(translated, match=words) as caught, translated_errors():
        raise raised

    assert caught.value.__cause__ is raised


@pytest.mark.parametrize("passing", [BadStatus(500, b"", ErrorCode.BACKEND_ERROR), KeyError("x")])
def test_other_errors_pass_as_they_are(passing: Exception) -> None:
    with pytest.raises(type(passing)) as caught, translated_errors():
        raise passing

    assert caught.value is passing


def test_a_cancel_passes() -> None:
    with pytest.raises(asyncio.CancelledError), translated_errors():
        raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (BadStatus(401, b"", ErrorCode.AUTH_REJECTED_BY_BACKEND), "api_key_env"),
        (BadStatus(403, b"", ErrorCode.AUTH_REJECTED_BY_BACKEND), "api_key_env"),
        (BadStatus(503, b"", ErrorCode.BACKEND_OVERLOADED), "loading"),
        (BadStatus(404, b"", ErrorCode.MODEL_NOT_LOADED), "kind and url"),
        (BadStatus(500, b"secret", ErrorCode.BACKEND_ERROR), "status 500"),
        (MissingApiKey("put it into X"), "put it into X"),
        (Unreachable("connection refused"), "refused"),
    ],
)
def test_an_operator_is_told_what_to_do(error: BackendError, words: str) -> None:
    assert words in describe(error)
    assert "secret" not in describe(error)


@pytest.mark.parametrize(
    ("error", "not_yet"),
    [
        (BadStatus(503, b"", ErrorCode.BACKEND_OVERLOADED), True),
        (BadStatus(401, b"", ErrorCode.AUTH_REJECTED_BY_BACKEND), False),
        (BadStatus(500, b"", ErrorCode.BACKEND_ERROR), False),
        (BackendError("the engine has died"), False),
        (Unreachable("no such host"), False),
        (BackendTimeout("hangs"), False),
    ],
)
def test_a_server_that_loads_is_told_from_one_that_is_ill(
    error: BackendError, not_yet: bool
) -> None:
    assert is_not_yet(error) is not_yet
