import errno
import os
import socket

import pytest

from provider_agent.adapters.base import (
    BackendError,
    BackendTimeout,
    BadStatus,
    MissingApiKey,
    Unreachable,
)
from provider_agent.adapters.http.failures import connect_failure, proxy_failure
from provider_agent.adapters.responses.http_errors import describe, failed_health, is_loading
from provider_agent.protocol.errors import ErrorCode


@pytest.mark.parametrize(
    ("error", "advice"),
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
def test_description_contains_advice_and_no_response_body(error: BackendError, advice: str) -> None:
    assert advice in describe(error)
    assert "secret" not in describe(error)


@pytest.mark.parametrize(
    ("error", "loading"),
    [
        (BadStatus(503, b"", ErrorCode.BACKEND_OVERLOADED), True),
        (BadStatus(401, b"", ErrorCode.AUTH_REJECTED_BY_BACKEND), False),
        (BadStatus(500, b"", ErrorCode.BACKEND_ERROR), False),
        (BackendError("engine failure"), False),
        (Unreachable("no such host"), False),
        (BackendTimeout("hangs"), False),
    ],
)
def test_loading_server_is_distinguished_from_a_failed_one(
    error: BackendError, loading: bool
) -> None:
    assert is_loading(error) is loading


@pytest.mark.parametrize(
    ("has_key", "text"),
    [
        (True, "the server refused the key, or requires one (status 401); check api_key_env"),
        (False, "the server requires a key (status 401), and none is set; set api_key_env"),
    ],
)
def test_refused_key_is_distinguished_from_a_missing_one(has_key: bool, text: str) -> None:
    error = BadStatus(401, b"", ErrorCode.AUTH_REJECTED_BY_BACKEND)

    health = failed_health(error, native=True, has_key=has_key)

    assert health.key_refused
    assert (health.last_error or "").startswith(text)
    assert (health.last_error or "").endswith(f"; {health.advice}")


def test_host_is_named_to_the_operator_and_not_to_clients() -> None:
    error = connect_failure(socket.gaierror(-2, "unknown"), "gpu.internal")

    assert describe(error).startswith("no such host: gpu.internal; check its spelling")
    assert str(error) == "no such host"


def test_proxy_is_named_to_the_operator_and_not_to_clients() -> None:
    error = proxy_failure(ConnectionRefusedError(errno.ECONNREFUSED, "x"), "p.internal:3128")

    assert describe(error) == (
        f"the proxy p.internal:3128 cannot be reached ({os.strerror(errno.ECONNREFUSED)}); "
        "check HTTPS_PROXY"
    )
    assert str(error) == "the proxy cannot be reached"


@pytest.mark.parametrize(
    "body",
    [
        b"<center>The plain HTTP request was sent to HTTPS port</center>",
        b"Client sent an HTTP request to an HTTPS server.\n",
        b"Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />",
    ],
    ids=["nginx", "Go", "Apache"],
)
def test_answer_of_a_port_for_tls_is_recognized(body: bytes) -> None:
    error = BadStatus(400, body, ErrorCode.BACKEND_ERROR)

    assert failed_health(error, native=True).advice == "begin the url with https://"
