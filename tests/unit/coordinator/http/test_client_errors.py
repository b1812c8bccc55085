import re

import pytest

from provider_agent.coordinator.agents.dispatcher import MAX_RETRY_S
from provider_agent.coordinator.http.client_errors import (
    RETRY_AFTER_S,
    error_of_code,
    error_of_job,
    error_of_reason,
)
from provider_agent.coordinator.reason import Reason
from provider_agent.protocol.errors import ErrorCode
from tests.unit.coordinator.http.job_errors import job_error

FOR_OPERATORS = re.compile(r"\b(agent|backend|job|upstream)\b")
"""Words of the protocol; clients know only providers, servers and requests."""


@pytest.mark.parametrize(
    ("code", "upstream_status", "status"),
    [
        ("bad_request", None, 400),
        ("bad_request", 422, 422),
        ("bad_request", 401, 400),
        ("bad_request", 429, 400),
        ("bad_request", 431, 400),
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
def test_only_a_message_about_the_request_is_forwarded(code: str) -> None:
    about_the_request = {
        "bad_request",
        "context_length_exceeded",
        "format_not_supported",
        "model_not_loaded",
    }
    assert (error_of_job(job_error(code, 404)).message == "why") is (code in about_the_request)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_has_a_status_and_a_text_for_clients(code: ErrorCode) -> None:
    for failure in (error_of_code(code), error_of_job(job_error(code))):
        assert 400 <= failure.status < 600
        assert failure.message
        assert not FOR_OPERATORS.search(failure.message)


@pytest.mark.parametrize("reason", list(Reason))
def test_agent_cannot_report_a_reason_of_the_coordinator(reason: Reason) -> None:
    failure = error_of_job(job_error(reason.value))
    assert (failure.status, failure.reason) == (500, None)


def test_each_reason_has_its_own_text_for_clients() -> None:
    # Regression: a full queue, a timeout, a lost agent and a stopping agent had one text.
    failures = [error_of_reason(reason, "tiny", detail="why") for reason in Reason]
    assert len({failure.message for failure in failures}) == len(Reason)
    for failure in failures:
        assert not FOR_OPERATORS.search(failure.message)
        assert (failure.retry_after_s is None) == (failure.status != 503)


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
