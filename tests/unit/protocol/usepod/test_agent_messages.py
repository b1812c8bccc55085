"""The ends of jobs and the heartbeats of the agent, as the dialect writes them."""

import json
from typing import Any

from provider_agent.protocol.errors import ErrorCode, LastError
from provider_agent.protocol.frames import (
    Ack,
    BackendLoad,
    Heartbeat,
    JobError,
    JobResult,
    ModelLoad,
    Usage,
)
from provider_agent.protocol.limits import MAX_TEXT_CHARS
from provider_agent.protocol.usepod.dialect import UsepodDialect
from provider_agent.protocol.usepod.job_ids import JobIds
from tests.unit.protocol.usepod.dialects import DialectHarness
from tests.unit.protocol.usepod.recorded import recorded
from tests.unit.protocol.usepod.test_dialect import TEXT, running, sent

BEAT = Heartbeat(3, 2, 8, 51.5, 120.4, 310.6, 0.25)


# --- ends -----------------------------------------------------------------------------------------


def test_a_result_has_both_spellings_of_the_counts() -> None:
    harness, job_id = running()
    end = JobResult(job_id, 10, Usage(5, 7), "vllm:http://host", 123, 4)

    assert sent(harness, end) == {
        "type": "job_done",
        "job_id": TEXT,
        "tokens": {"input": 5, "output": 7, "input_tokens": 5, "output_tokens": 7},
        "duration_ms": 123,
    }
    assert harness.dialect.take_acks() == [Ack(job_id, 10, final=True)]


def test_an_unknown_count_is_zero() -> None:
    harness, job_id = running()

    tokens = sent(harness, JobResult(job_id, 0, Usage(), "b", 0, None))["tokens"]
    assert set(tokens.values()) == {0}


def test_an_error_reports_the_bytes_before_it_and_the_servers_body() -> None:
    harness, job_id = running()
    end = JobError(job_id, 402, "backend_error", "the server answered 500", body=b'{"e": 1}')

    assert sent(harness, end) == {
        "type": "job_error",
        "job_id": TEXT,
        "error_code": "internal",
        "message": 'the server answered 500: {"e": 1}',
        "tokens_emitted": 402,
    }
    assert harness.dialect.take_acks() == [Ack(job_id, 402, final=True)]


def test_the_error_of_a_server_has_the_message_that_the_rust_agent_sends() -> None:
    harness, job_id = running()
    end = JobError(job_id, 0, "bad_request", "no such field", 400, body=b'{"e": 1}')
    (recorded_error,) = recorded("agent", "job_error", "server answers 400")
    expected = json.loads(recorded_error.text)["message"].partition(": ")[0]

    assert sent(harness, end)["message"] == f'{expected}: {{"e": 1}}'


def test_an_error_body_of_any_bytes_is_sent_within_the_limit_of_a_text() -> None:
    harness, job_id = running()
    end = JobError(job_id, 0, "internal", "failed", body=b"\xff" * 65_536)

    message = sent(harness, end)["message"]
    assert message.startswith("failed: \N{REPLACEMENT CHARACTER}")
    assert len(message) == MAX_TEXT_CHARS


# --- heartbeats -----------------------------------------------------------------------------------


def load(*speeds: float | None) -> BackendLoad:
    models = [ModelLoad("m", "", 0, decode_tokens_per_second=speed) for speed in speeds]
    return BackendLoad("vllm:http://host", True, 0, 8, models=models)


def test_a_heartbeat_has_the_measured_figures() -> None:
    beat = Heartbeat(3, 2, 8, 7.5, 120.4, 310.6, 0.25, [load(None, 90.5), load(51.5, 20.0)])

    assert sent(DialectHarness(), beat) == {
        "type": "heartbeat",
        "queue_depth": 2,
        "tokens_per_sec_p50": 51.5,
        "p50_latency_ms": 120,
        "p95_latency_ms": 311,
        "error_rate_60s": 0.25,
        "last_error_at": None,
        "last_error_code": None,
    }


def test_a_heartbeat_without_measurements_has_numbers() -> None:
    beat = sent(DialectHarness(), Heartbeat(0, 0, 8, None, None, None, None))

    assert beat["tokens_per_sec_p50"] == beat["p50_latency_ms"] == beat["error_rate_60s"] == 0


def heartbeat(error: LastError | None) -> Any:
    dialect = UsepodDialect(JobIds(), "1", lambda: error)
    return json.loads(dialect.encode_messages([BEAT])[0])


def test_a_heartbeat_has_the_last_error_in_the_forms_of_the_dialect() -> None:
    beat = heartbeat(LastError(1_780_000_000.75, ErrorCode.DEADLINE_EXCEEDED))

    assert beat["last_error_at"] == "2026-05-28T20:26:40Z"
    assert beat["last_error_code"] == "backend_timeout"


def test_a_heartbeat_without_an_error_has_nulls() -> None:
    beat = heartbeat(None)

    assert beat["last_error_at"] is beat["last_error_code"] is None
