import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.retry_after import parse_retry_after
from adapters.status_codes import (
    MAX_MESSAGE_CHARS,
    code_for_status,
    server_message,
)
from protocol.errors import ErrorCode

LLAMACPP = b'{"error":{"type":"exceed_context_size_error","n_ctx":2048}}'
VLLM = b'{"error":{"message":"This model\'s maximum context length is 2048 tokens."}}'
OPENAI = b'{"error":{"code":"context_length_exceeded"}}'


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, b"", ErrorCode.BAD_REQUEST),
        (422, b'{"detail":"no"}', ErrorCode.BAD_REQUEST),
        (405, b"", ErrorCode.BAD_REQUEST),
        (415, b"", ErrorCode.BAD_REQUEST),
        (401, b"", ErrorCode.AUTH_REJECTED_BY_BACKEND),
        (402, b"", ErrorCode.AUTH_REJECTED_BY_BACKEND),
        (403, b"", ErrorCode.AUTH_REJECTED_BY_BACKEND),
        (404, b"", ErrorCode.MODEL_NOT_LOADED),
        (410, b"", ErrorCode.MODEL_NOT_LOADED),
        (408, b"", ErrorCode.BACKEND_TIMEOUT),
        (504, b"", ErrorCode.BACKEND_TIMEOUT),
        (429, b"", ErrorCode.BACKEND_OVERLOADED),
        (503, b"", ErrorCode.BACKEND_OVERLOADED),
        (529, b"", ErrorCode.BACKEND_OVERLOADED),
        (501, b"", ErrorCode.FORMAT_NOT_SUPPORTED),
        (500, b"", ErrorCode.BACKEND_ERROR),
        (502, b"", ErrorCode.BACKEND_ERROR),
        (524, b"", ErrorCode.BACKEND_ERROR),
        (301, b"", ErrorCode.INVALID_RESPONSE),
        (400, LLAMACPP, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (500, LLAMACPP, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (400, VLLM, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (400, OPENAI, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (413, OPENAI, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (503, VLLM, ErrorCode.BACKEND_OVERLOADED),
        (401, VLLM, ErrorCode.AUTH_REJECTED_BY_BACKEND),
    ],
)
def test_what_a_status_means(status: int, body: bytes, code: ErrorCode) -> None:
    assert code_for_status(status, body) is code


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error":{"message":"too  long\\n"}}', "too long"),
        (b'{"type":"error","error":{"type":"x","message":"no"}}', "no"),
        (b'{"error":"Unauthorized"}', "Unauthorized"),
        (b'{"code":500,"message":"bare"}', "bare"),
        (b'{"detail":"Not Found"}', ""),
        (b'{"error":{"message":7}}', ""),
        (b"<html>", ""),
        (b"", ""),
        (b"[" * 100_000, ""),
        (b'{"error":"' + b"x" * 9999 + b'"}', "x" * MAX_MESSAGE_CHARS),
    ],
)
def test_the_servers_own_sentence(body: bytes, text: str) -> None:
    assert server_message(body) == text


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("17", 17.0),
        ("0", 0.0),
        ("1.5", 1.5),
        (" 3 ", 3.0),
        (None, None),
        ("-1", None),
        ("86400", None),
        ("nan", None),
        ("inf", None),
        ("Sun, 22 Nov 2026 08:00:00 GMT", None),
        ("", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds


@given(st.text())
def test_no_retry_after_is_an_accident(value: str) -> None:
    seconds = parse_retry_after(value)

    assert seconds is None or 0 <= seconds < 86_400
