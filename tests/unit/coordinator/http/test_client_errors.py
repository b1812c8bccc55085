import msgspec
import pytest

from provider_agent.coordinator.agents.dispatcher import MAX_RETRY_S
from provider_agent.coordinator.http.client_errors import (
    RETRY_AFTER_S,
    ClientError,
    error_of_code,
    error_of_job,
    render_body,
    render_event,
)
from provider_agent.protocol.errors import REGISTRY, ErrorCode, Fault, entry_for
from provider_agent.protocol.formats import Operation, WireFormat
from provider_agent.protocol.frames import JobError

OPENAI, ANTHROPIC = WireFormat.OPENAI, WireFormat.ANTHROPIC


def job_error(
    code: str,
    upstream_status: int | None = None,
    *,
    retryable: bool = False,
    retry_after_ms: int | None = None,
    body: bytes = b"",
) -> JobError:
    return JobError(bytes(16), 0, code, "why", upstream_status, retryable, retry_after_ms, body)


@pytest.mark.parametrize(
    ("code", "upstream_status", "status"),
    [
        ("bad_request", None, 400),
        ("bad_request", 422, 422),
        ("bad_request", 401, 400),
        ("bad_request", 429, 400),
        ("bad_request", 500, 400),
        ("context_length_exceeded", 413, 413),
        ("cancelled", None, 503),
        ("model_not_loaded", 404, 404),
        ("model_not_loaded", None, 503),  # the agent offered the model a moment ago
        ("format_not_supported", None, 400),
        ("out_of_capacity", None, 503),
        ("draining", None, 503),
        ("deadline_exceeded", None, 504),
        ("slow_consumer", None, 408),
        ("backend_unreachable", None, 502),
        ("backend_timeout", None, 504),
        ("backend_overloaded", 429, 503),
        ("backend_error", 500, 502),
        ("auth_rejected_by_backend", 401, 502),
        ("invalid_response", 200, 502),
        ("internal", None, 500),
        ("of_a_newer_agent", 418, 500),
    ],
)
def test_each_error_code_has_its_http_status(
    code: str, upstream_status: int | None, status: int
) -> None:
    failure = error_of_job(job_error(code, upstream_status))
    assert (failure.status, failure.code) == (status, code)


@pytest.mark.parametrize("code", [*ErrorCode, "of_a_newer_agent"])
def test_message_of_an_agent_about_its_own_failure_is_replaced(code: str) -> None:
    entry = entry_for(code)
    expected = entry.meaning if entry.fault is Fault.PROVIDER else "why"
    assert error_of_job(job_error(code, None)).message == expected


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_registry_code_has_a_status_and_a_message(code: ErrorCode) -> None:
    failure = error_of_code(code)
    assert 400 <= failure.status < 600
    assert failure.message == REGISTRY[code].meaning


@pytest.mark.parametrize(
    ("code", "retry_after_ms", "retry_after_s"),
    [
        ("out_of_capacity", None, RETRY_AFTER_S),
        ("backend_overloaded", 1001, 2),
        ("backend_overloaded", 0, 1),
        ("backend_overloaded", 2**53 - 1, MAX_RETRY_S),
        ("backend_error", 1001, None),
    ],
)
def test_only_status_503_has_retry_after(
    code: str, retry_after_ms: int | None, retry_after_s: int | None
) -> None:
    failure = error_of_job(job_error(code, retry_after_ms=retry_after_ms))
    assert failure.retry_after_s == retry_after_s


@pytest.mark.parametrize(
    ("status", "openai_type", "anthropic_type"),
    [
        (400, "invalid_request_error", "invalid_request_error"),
        (401, "authentication_error", "authentication_error"),
        (404, "not_found_error", "not_found_error"),
        (413, "invalid_request_error", "request_too_large"),
        (429, "rate_limit_error", "rate_limit_error"),
        (500, "server_error", "api_error"),
        (503, "server_error", "overloaded_error"),
        (504, "server_error", "timeout_error"),
    ],
)
def test_error_body_follows_the_wire_format(
    status: int, openai_type: str, anthropic_type: str
) -> None:
    failure = ClientError(status, "some_code", "why")
    assert msgspec.json.decode(render_body(OPENAI, failure)) == {
        "error": {"message": "why", "type": openai_type, "param": None, "code": "some_code"}
    }
    assert msgspec.json.decode(render_body(ANTHROPIC, failure)) == {
        "type": "error",
        "error": {"type": anthropic_type, "message": "why"},
    }


@pytest.mark.parametrize(
    ("wire_format", "body", "forwarded"),
    [
        pytest.param(
            OPENAI, b'{"error":{"message":"too long","code":400}}', True, id="valid OpenAI error"
        ),
        pytest.param(OPENAI, b'{"error":"too long"}', False, id="error is a string"),
        pytest.param(OPENAI, b'{"error":{"message":"cut o', False, id="truncated"),
        pytest.param(OPENAI, b"\xff", False, id="not JSON"),
        pytest.param(
            ANTHROPIC,
            b'{"type":"error","error":{"type":"a","message":"b"}}',
            True,
            id="valid Anthropic error",
        ),
        pytest.param(
            ANTHROPIC, b'{"error":{"type":"a","message":"b","code":400}}', False, id="no type"
        ),
        pytest.param(
            ANTHROPIC,
            b'{"type":"message","error":{"type":"a","message":"b"}}',
            False,
            id="type is not error",
        ),
    ],
)
def test_upstream_body_is_forwarded_if_it_is_an_error_in_the_wire_format(
    wire_format: WireFormat, body: bytes, forwarded: bool
) -> None:
    failure = error_of_job(job_error("bad_request", 400, body=body))
    assert (render_body(wire_format, failure) == body) is forwarded


def test_upstream_body_of_a_server_failure_is_not_forwarded() -> None:
    body = b'{"error":{"message":"CUDA out of memory on gpu-7"}}'
    failure = error_of_job(job_error("backend_error", 500, body=body))
    assert b"CUDA" not in render_body(OPENAI, failure)


@pytest.mark.parametrize(
    ("operation", "event"),
    [
        (
            Operation.CHAT,
            (
                b'data: {"error":{"message":"why","type":"server_error","param":null,'
                b'"code":"backend_error"}}\n\n'
            ),
        ),
        (
            Operation.RESPONSES,
            (
                b'event: error\ndata: {"type":"error","code":"backend_error","message":"why",'
                b'"param":null,"sequence_number":7}\n\n'
            ),
        ),
        (
            Operation.MESSAGES,
            (
                b'event: error\ndata: {"type":"error","error":{"type":"api_error",'
                b'"message":"why"}}\n\n'
            ),
        ),
    ],
)
def test_error_event_has_the_form_of_the_operation(operation: Operation, event: bytes) -> None:
    # Regression: a stream of the Responses API ended with an error of Chat Completions.
    assert render_event(operation, ClientError(502, "backend_error", "why"), 7) == event
