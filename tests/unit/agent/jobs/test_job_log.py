import logging

import pytest
from msgspec.structs import replace

from provider_agent.adapters.errors import BadRequest, BadStatus, ErrorInStream
from provider_agent.agent.backends.routing import Refusal, RefusalReason
from provider_agent.agent.jobs.ends import (
    JobReport,
    backend_error_end,
    error_end,
    refusal_end,
)
from provider_agent.agent.jobs.job_log import end_fields, end_level
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import JobEnd, JobError, JobResult, Usage
from tests.kit.jobs import new_job

PROMPT = "my secret diary"
JOB = new_job(request=PROMPT.encode())
REPORT = JobReport(JOB.job_id)


def fields(end: JobEnd) -> dict[str, object]:
    found = end_fields(JOB.header, "vllm", end, 1.5)
    assert isinstance(found, dict)
    return found


def test_a_result_is_logged_as_ids_and_numbers() -> None:
    logged = fields(JobResult(JOB.job_id, 9, Usage(3, 4), "b", 10, 5))
    assert logged["job"] == JOB.job_id.hex()
    assert (logged["backend"], logged["operation"]) == ("b", JOB.header.operation)
    assert (logged["bytes"], logged["duration_ms"], logged["output_tokens"]) == (9, 1500, 4)


@pytest.mark.parametrize(
    ("code", "level"),
    [
        (ErrorCode.BAD_REQUEST, logging.INFO),
        (ErrorCode.CONTEXT_LENGTH_EXCEEDED, logging.INFO),
        (ErrorCode.CANCELLED, logging.INFO),
        (ErrorCode.BACKEND_ERROR, logging.WARNING),
        (ErrorCode.INTERNAL, logging.WARNING),
    ],
)
def test_failure_that_the_client_caused_is_no_warning(code: ErrorCode, level: int) -> None:
    assert end_level(error_end(REPORT, code, "x")) == level


def test_tokens_that_the_server_did_not_report_are_logged_as_a_lower_bound() -> None:
    end = JobResult(JOB.job_id, 9, Usage(3, None), "b", 10, 5)
    assert end_fields(JOB.header, "vllm", end, 1.5, at_least=8)["at_least"] == 8
    assert "at_least" not in end_fields(JOB.header, "vllm", end, 1.5, at_least=3)


def test_the_agents_own_error_message_is_logged() -> None:
    end = error_end(REPORT, ErrorCode.DEADLINE_EXCEEDED, "the deadline passed")
    assert fields(end)["message"] == "the deadline passed"


def test_message_about_an_invalid_request_is_not_logged() -> None:
    message = f"messages.content.type {PROMPT!r} is not known"
    end = backend_error_end(REPORT, BadRequest(message))
    assert end.message == message, "the client receives it"
    assert PROMPT not in repr(fields(end))


def test_a_servers_error_message_is_not_logged() -> None:
    """An error response may quote the prompt, and so may an error event in a started stream."""
    body = b'{"error":{"message":"cannot read: my secret diary"}}'
    message = f"cannot read: {PROMPT}"
    errors = [
        BadStatus(400, body, ErrorCode.BAD_REQUEST, None, message),
        ErrorInStream(body, ErrorCode.BAD_REQUEST, message),
    ]
    for error in errors:
        end = backend_error_end(REPORT, error)
        assert isinstance(end, JobError)
        assert PROMPT in end.message, "the client receives it"
        assert PROMPT not in str(fields(end))
        assert fields(end)["code"] == "bad_request"


TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_line_of_a_job_has_outcome_price_first_byte_and_trace() -> None:
    end = JobResult(JOB.job_id, 9, Usage(3, 4), "b", 10, 5, 100, 200)
    header = replace(JOB.header, traceparent=TRACEPARENT)
    logged = end_fields(header, "vllm", end, 1.5, attempts=2)
    names = ("outcome", "first_byte_ms", "input_price_per_1m", "output_price_per_1m")
    assert [logged[name] for name in names] == ["ok", 5, 100, 200]
    assert (logged["traceparent"], logged["attempts"]) == (TRACEPARENT, 2)
    assert not {"traceparent", "attempts"} & fields(end).keys()


def test_malformed_traceparent_is_not_logged() -> None:
    header = replace(JOB.header, traceparent=PROMPT)
    logged = end_fields(header, "vllm", error_end(REPORT, ErrorCode.CANCELLED, ""), 1.5)
    assert PROMPT not in str(logged)
    assert logged["outcome"] == "cancelled"


def test_refusal_is_no_warning_and_has_its_reason() -> None:
    refusal = Refusal(RefusalReason.TOKEN_LIMIT, "used up", 3.0)
    end = refusal_end(REPORT, refusal)
    assert end_level(end) == logging.WARNING, "the same code of a job that ran"
    assert end_level(end, refusal.reason) == logging.INFO
    logged = end_fields(JOB.header, "", end, 0.0, attempts=0, refusal=refusal.reason)
    assert (logged["outcome"], logged["code"]) == ("refused", "out_of_capacity")
    assert (logged["reason"], logged["message"]) == ("token_limit", "used up")
