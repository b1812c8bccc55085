import msgspec
import pytest

from provider_agent.coordinator.http.client_errors import ClientError, error_of_job
from provider_agent.coordinator.http.error_bodies import render_body, render_event
from provider_agent.protocol.formats import Operation, WireFormat
from tests.unit.coordinator.http.job_errors import job_error

OPENAI, ANTHROPIC = WireFormat.OPENAI, WireFormat.ANTHROPIC


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
