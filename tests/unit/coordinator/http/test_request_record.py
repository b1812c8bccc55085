import asyncio
import logging

import aiohttp
import pytest
from msgspec.structs import replace

from provider_agent.coordinator.http.request_record import MAX_HIDDEN_TOKENS, RequestRecord
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.formats import Operation
from provider_agent.protocol.frames import JobResult, Usage
from provider_agent.protocol.job import Job
from tests.kit.coordinator_harness import CHAT, NO_HEARTBEATS, coordinator_harness
from tests.kit.virtual_time import in_virtual_time
from tests.unit.coordinator.sessions.test_running_job import FakeOwner


def finished(records: list[logging.LogRecord]) -> list[dict[str, object]]:
    """Return the fields of the `request finished` lines."""
    return [
        getattr(record, "fields", {}) for record in records if record.message == "request finished"
    ]


@in_virtual_time
async def test_each_request_is_logged_in_one_line_without_content(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with coordinator_harness(NO_HEARTBEATS) as harness:
        asking = harness.ask()
        job = await harness.agent.next_job()
        await asyncio.sleep(2)
        await job.start()
        await job.send(b"data: an answer\n\n")
        await (await asking).content.readany()
        await asyncio.sleep(3)
        await job.finish()
        await (await asking).read()
        await harness.agent.settle()
    (fields,) = finished(caplog.records)
    assert fields.pop("agent")
    assert fields == {
        "operation": "chat",
        "model": "tiny",
        "status": 200,
        "code": "ok",
        "reason": None,
        "job": job.job.job_id.hex(),
        "jobs": 1,
        "queue_ms": 0,
        "first_byte_ms": 2000,
        "duration_ms": 5000,
        "request_bytes": 16,
        "input_tokens": 3,
        "output_tokens": 4,
    }
    assert "an answer" not in caplog.text


@pytest.mark.parametrize(
    ("body", "headers", "status", "reason", "model"),
    [
        (b'{"model":"unknown"}', {}, 503, "provider_offline", "unknown"),
        (b"[]", {}, 400, "invalid_model", None),
        (b"{", {}, 400, "invalid_json", None),
        (b" " * 100, {}, 413, "body_too_large", None),
        (b"{}", {"Content-Type": "text/plain"}, 415, "content_type", None),
        (b"{}", {"Content-Encoding": "gzip"}, 415, "compressed_body", None),
    ],
    ids=["no agent", "not an object", "not JSON", "too large", "media type", "compressed"],
)
async def test_refused_request_is_logged_with_its_status_and_reason(
    settings: CoordinatorSettings,
    caplog: pytest.LogCaptureFixture,
    body: bytes,
    headers: dict[str, str],
    status: int,
    reason: str,
    model: str | None,
) -> None:
    caplog.set_level(logging.INFO)
    headers = {"Content-Type": "application/json", **headers}
    async with (
        Coordinator(replace(settings, max_request_bytes=50)) as coordinator,
        aiohttp.ClientSession(coordinator.http_url, headers=headers) as http,
        http.post(CHAT, data=body) as response,
    ):
        assert response.status == status
    (fields,) = finished(caplog.records)
    assert (fields["status"], fields["reason"], fields["model"]) == (status, reason, model)
    assert (fields["agent"], fields["jobs"]) == (None, 0)


@in_virtual_time
async def test_request_of_a_client_that_disconnects_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with coordinator_harness(NO_HEARTBEATS) as harness:
        job, response = await harness.start_response(b"data: 1\n\n")
        response.close()
        await job.cancelled.wait()
    (fields,) = finished(caplog.records)
    assert (fields["status"], fields["code"], fields["jobs"]) == (200, "client_disconnected", 1)


async def test_status_of_a_refused_request_is_logged_as_a_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        Coordinator(CoordinatorSettings(port=0)) as coordinator,
        aiohttp.ClientSession() as client,
        client.post(f"{coordinator.http_url}{CHAT}", data="{}") as response,
    ):
        assert response.status == 415
    assert [repr(fields["status"]) for fields in finished(caplog.records)] == ["415"]


@pytest.mark.parametrize("reported", [2**53 - 1, 1000, None])
def test_implausible_token_counts_do_not_distort_the_sums(reported: int | None) -> None:
    # One job with 2^53 - 1 tokens made `coordinator_tokens_total` useless.
    job = RunningJob(Job(bytes(16), "tiny", "openai", b"", 1), FakeOwner(), 0.0)
    job.on_end(JobResult(bytes(16), 500, Usage(reported, reported), "b", 1, 1))
    record = RequestRecord(Operation.CHAT, lambda: 0.0, 0.0, request_bytes=100, job=job)
    assert record.tokens == (reported, reported)
    expected = (100 + MAX_HIDDEN_TOKENS, 500 + MAX_HIDDEN_TOKENS)
    plausible = (reported, reported) if reported != 2**53 - 1 else expected
    assert record.plausible_tokens == plausible
