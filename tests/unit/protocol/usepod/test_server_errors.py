import pytest

from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.limits import MAX_ERROR_BODY_BYTES
from provider_agent.protocol.usepod.server_errors import ServerError, message_of, read_error

BODY = '{"error": {"message": "scripted"}}'


@pytest.mark.parametrize(
    ("wire", "status", "code"),
    [
        ("internal", 400, ErrorCode.BAD_REQUEST),
        ("internal", 413, ErrorCode.BAD_REQUEST),
        ("internal", 422, ErrorCode.BAD_REQUEST),
        ("internal", 404, ErrorCode.MODEL_NOT_LOADED),
        ("internal", 429, ErrorCode.BACKEND_OVERLOADED),
        ("internal", 503, ErrorCode.BACKEND_OVERLOADED),
        ("internal", 500, ErrorCode.BACKEND_ERROR),
        ("internal", 418, ErrorCode.INTERNAL),
        ("a later code", 400, ErrorCode.BAD_REQUEST),
        ("auth_rejected_by_backend", 401, ErrorCode.AUTH_REJECTED_BY_BACKEND),
        ("out_of_capacity", 400, ErrorCode.OUT_OF_CAPACITY),
    ],
)
def test_the_status_of_the_server_decides_what_internal_means(
    wire: str, status: int, code: ErrorCode
) -> None:
    text = f"The inference server answered with status {status}."
    assert read_error(wire, message_of(status, BODY)) == ServerError(
        code, text, status, BODY.encode()
    )


@pytest.mark.parametrize(
    "message",
    ["", "transport error", "backend returned HTTP 4000: x", message_of(200, BODY), "x" + BODY],
)
def test_other_messages_have_no_status(message: str) -> None:
    assert read_error("internal", message) == ServerError(ErrorCode.INTERNAL, message)


def test_a_body_is_cut_to_the_limit_of_a_frame() -> None:
    found = read_error("internal", message_of(400, "x" * (MAX_ERROR_BODY_BYTES + 1)))
    assert found.body == b"x" * MAX_ERROR_BODY_BYTES
