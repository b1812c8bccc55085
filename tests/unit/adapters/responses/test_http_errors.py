import pytest

from provider_agent.adapters.base import (
    BackendError,
    BackendTimeout,
    BadStatus,
    MissingApiKey,
    Unreachable,
)
from provider_agent.adapters.responses.http_errors import describe, is_loading
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
