import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.responses.body_validator import BODY_BYTES, BodyValidator
from provider_agent.adapters.responses.validation_result import ValidationResult
from provider_agent.protocol.errors import ErrorCode
from tests.kit.fakes.frames import chat_body, message_body
from tests.kit.sample_streams import KNOWN_USAGE, UNKNOWN_USAGE


def validate_body(body: bytes) -> ValidationResult:
    validator = BodyValidator()
    validator.receive_data(body)
    return validator.result()


@pytest.mark.parametrize("body", [chat_body("m"), message_body("m")])
def test_usage_is_read_from_a_json_response(body: dict[str, object]) -> None:
    assert validate_body(msgspec.json.encode(body)) == ValidationResult(
        KNOWN_USAGE, between_events=False
    )


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", ErrorCode.INVALID_RESPONSE),
        (b"[]", ErrorCode.INVALID_RESPONSE),
        (b"<html>busy</html>", ErrorCode.INVALID_RESPONSE),
        (b'{"choices":[', ErrorCode.INVALID_RESPONSE),
        (b"[" * 100_000, ErrorCode.INVALID_RESPONSE),
        (b'{"error":"Unexpected endpoint or method."}', ErrorCode.BACKEND_ERROR),
        (b'{"error":{"code":429,"message":"busy"}}', ErrorCode.BACKEND_OVERLOADED),
        (b'{"error":{"code":404,"message":"?"}}', ErrorCode.MODEL_NOT_LOADED),
        (b'{"error":{"code":7,"message":"?"}}', ErrorCode.BACKEND_ERROR),
        (b'{"type":"error","error":{"type":"api_error","message":"?"}}', ErrorCode.BACKEND_ERROR),
        (
            b'{"error":{"message":"exceeds the available context size"}}',
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        ),
    ],
)
def test_error_or_malformed_json_response_is_a_failure(body: bytes, code: ErrorCode) -> None:
    result = validate_body(body)

    assert result.failure is not None
    assert result.failure.code is code
    assert result.error_relayed == (code is not ErrorCode.INVALID_RESPONSE)
    assert result.between_events == (body == b"")


def test_usage_missing_from_a_json_response_is_unknown() -> None:
    assert validate_body(b'{"choices":[]}') == ValidationResult(UNKNOWN_USAGE, between_events=False)


def test_json_response_over_the_limit_is_a_success_with_unknown_usage() -> None:
    # In an earlier version, up to 8 MiB were decoded, which blocked the event loop for 48 ms.
    assert BODY_BYTES <= 2 * 2**20
    validator = BodyValidator()
    for _ in range(3):
        validator.receive_data(b"x" * (BODY_BYTES // 2))

    assert validator.result() == ValidationResult(UNKNOWN_USAGE, between_events=False)


@given(st.lists(st.integers(0, 300), max_size=10))
def test_json_result_does_not_depend_on_chunk_boundaries(sizes: list[int]) -> None:
    validator, data = BodyValidator(), msgspec.json.encode(chat_body("m"))

    for size in sizes:
        validator.receive_data(data[:size])
        data = data[size:]
    validator.receive_data(data)

    assert validator.result() == ValidationResult(KNOWN_USAGE, between_events=False)


def test_json_response_is_never_terminated_early() -> None:
    validator = BodyValidator()
    validator.receive_data(msgspec.json.encode(chat_body("m")))
    assert not validator.is_terminated()
