"""Limits of API keys in the HTTP API: responses, what counts, and floods."""

import asyncio
from collections import Counter

import aiohttp
import anthropic
import openai
import pytest
from msgspec.structs import replace

from provider_agent.coordinator.access import SecretSet
from provider_agent.coordinator.http.key_limit_check import tokens_of
from provider_agent.coordinator.http.request_record import RequestRecord
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.formats import Operation
from provider_agent.protocol.frames import JobEnd, JobError, JobResult, Usage
from provider_agent.protocol.job import Job
from tests.kit.coordinator_harness import (
    BODY,
    CHAT,
    NO_HEARTBEATS,
    CoordinatorHarness,
    coordinator_harness,
)
from tests.kit.virtual_time import in_virtual_time
from tests.unit.coordinator.http.chat_requests import MESSAGES
from tests.unit.coordinator.sessions.test_running_job import FakeOwner

KEYS = SecretSet(["one", "two"])


async def answer(harness: CoordinatorHarness, body: bytes = b"{}") -> aiohttp.ClientResponse:
    asking = harness.ask()
    await (await harness.agent.next_job()).answer(body)
    response = await asking
    await response.read()
    return response


async def post(
    harness: CoordinatorHarness, path: str = CHAT, **headers: str
) -> aiohttp.ClientResponse:
    return await harness.http.post(path, data=BODY, headers=headers)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            CHAT,
            {
                "error": {
                    "message": "The limit of 2 requests per minute is used up.",
                    "type": "rate_limit_error",
                    "param": None,
                    "code": "rate_limit_exceeded",
                }
            },
        ),
        (
            MESSAGES,
            {
                "type": "error",
                "error": {
                    "type": "rate_limit_error",
                    "message": "The limit of 2 requests per minute is used up.",
                },
            },
        ),
    ],
)
def test_request_beyond_the_limit_receives_429_in_its_format(path: str, body: object) -> None:
    @in_virtual_time
    async def run() -> None:
        settings = replace(NO_HEARTBEATS, max_requests_per_minute=2)
        async with coordinator_harness(settings) as harness:
            assert (await answer(harness)).status == 200
            await asyncio.sleep(20)
            assert (await answer(harness)).status == 200
            refused = await post(harness, path)
            assert (refused.status, refused.headers["Retry-After"]) == (429, "41")
            assert await refused.json() == body
            await asyncio.sleep(41)
            assert (await answer(harness)).status == 200

    run()


@in_virtual_time
async def test_tokens_of_ended_requests_refuse_the_next() -> None:
    settings = replace(NO_HEARTBEATS, max_tokens_per_minute=8)
    async with coordinator_harness(settings) as harness:
        for _ in range(2):  # of 7 tokens each
            assert (await answer(harness)).status == 200
        refused = await post(harness)
        assert refused.status == 429
        assert "8 tokens per minute" in (await refused.json())["error"]["message"]
        # 61 s, but older clients ignore more than 60.
        assert refused.headers["Retry-After"] == "60"


@in_virtual_time
async def test_client_that_disconnects_does_not_avoid_the_limit_of_tokens() -> None:
    # Its usage is unknown: the agent's end arrives when no request waits for it any more.
    settings = replace(NO_HEARTBEATS, max_tokens_per_minute=8)
    async with coordinator_harness(settings) as harness:
        job, response = await harness.start_response(b"data: 1\n\n" * 200)
        response.close()
        await job.cancelled.wait()
        assert (await post(harness)).status == 429


async def test_official_clients_raise_their_typed_errors() -> None:
    settings = CoordinatorSettings(port=0, drain_s=0, queue_s=0, max_requests_per_minute=1)
    async with (
        Coordinator(settings) as coordinator,
        openai.AsyncOpenAI(
            base_url=coordinator.http_url + "/v1", api_key="x", max_retries=0
        ) as of_openai,
        anthropic.AsyncAnthropic(
            base_url=coordinator.http_url, api_key="x", max_retries=0
        ) as of_anthropic,
    ):
        with pytest.raises(openai.InternalServerError):  # no agent: it counts nevertheless
            await of_openai.chat.completions.create(model="tiny", messages=[])
        with pytest.raises(openai.RateLimitError):
            await of_openai.chat.completions.create(model="tiny", messages=[])
        with pytest.raises(anthropic.RateLimitError):
            await of_anthropic.messages.create(model="tiny", messages=[], max_tokens=1)


@in_virtual_time
async def test_each_key_has_its_own_limit() -> None:
    settings = replace(NO_HEARTBEATS, api_keys=KEYS, max_requests_per_minute=1, queue_s=0)
    async with coordinator_harness(settings) as harness:
        await harness.agent.advertise()
        statuses = [
            (await post(harness, Authorization=f"Bearer {key}")).status
            for key in ("one", "two", "one", "wrong", "two")
        ]
        assert statuses == [404, 404, 429, 401, 429]
        assert (await post(harness, **{"x-api-key": "one"})).status == 429
        models = await harness.http.get("/v1/models", headers={"x-api-key": "one"})
        assert models.status == 200


@in_virtual_time
async def test_clients_without_keys_share_the_limit() -> None:
    settings = replace(NO_HEARTBEATS, max_requests_per_minute=2)
    async with coordinator_harness(settings) as harness:
        await harness.agent.advertise()
        statuses = [
            (await post(harness, Authorization=f"Bearer {key}")).status for key in ("a", "b", "c")
        ]
        assert statuses == [404, 404, 429]


@in_virtual_time
async def test_requests_that_are_refused_by_their_headers_do_not_count() -> None:
    settings = replace(NO_HEARTBEATS, max_requests_per_minute=1)
    async with coordinator_harness(settings) as harness:
        refused = await post(harness, **{"Content-Type": "text/plain"})
        assert refused.status == 415
        assert (await answer(harness)).status == 200


@in_virtual_time  # on a busy machine, it took longer than the minute that it counts
async def test_flood_of_requests_with_one_key_is_refused_before_a_body_is_read() -> None:
    settings = replace(NO_HEARTBEATS, api_keys=KEYS, max_requests_per_minute=10, queue_s=0)
    async with coordinator_harness(settings) as harness:
        await harness.agent.advertise()

        async def flood() -> list[int]:
            found = []
            for _ in range(40):
                async with harness.http.post(
                    CHAT, data=b"[" + b" " * 10_000, headers={"x-api-key": "one"}
                ) as response:
                    found.append(response.status)
            return found

        statuses = Counter[int]()
        for found in await asyncio.gather(*(flood() for _ in range(50))):
            statuses.update(found)
        assert statuses == {400: 10, 429: 1990}
        metrics = await harness.http.get("/metrics", headers={"x-api-key": "two"})
        assert (
            'coordinator_requests_total{code="rate_limit_exceeded",operation="chat"} 1990.0'
            in await metrics.text()
        )
        assert (await post(harness, **{"x-api-key": "two"})).status == 404


def _record(
    end: JobEnd | None, response_bytes: int = 0, operation: Operation = Operation.CHAT
) -> RequestRecord:
    job = RunningJob(Job(bytes(16), "tiny", "openai", b"", 1), FakeOwner(), 0.0)
    if end is not None:
        job.on_end(end)
    return RequestRecord(
        operation, lambda: 0.0, 0.0, request_bytes=400, response_bytes=response_bytes, job=job
    )


def _result(*tokens: int | None) -> JobResult:
    return JobResult(bytes(16), 1280, Usage(*tokens), "b", 1, 1)


def _error(*tokens: int | None) -> JobError:
    return JobError(bytes(16), 0, "backend_error", "failed", usage=Usage(*tokens))


@pytest.mark.parametrize(
    ("record", "tokens"),
    [
        (_record(_result(30, 12)), 42),
        (_record(_result(30, None), 1280), 30 + 10),
        (_record(_result(None, None), 1280), 100 + 10),
        (_record(_result(2**53 - 1, 0)), 400 + 131_072),
        (_record(None, 1280), 100 + 10),
        (_record(None), 100),
        (_record(_error(None, None), 1280), 100 + 10),
        (_record(_error(None, None)), 0),
        (_record(_error(30, 5)), 35),
        (_record(_result(30, None), 50, Operation.COUNT_TOKENS), 0),
        (RequestRecord(Operation.CHAT, lambda: 0.0, 0.0, request_bytes=400), 0),
    ],
    ids=[
        "reported",
        "only input reported",
        "nothing reported",
        "false report",
        "disconnected during the response",
        "disconnected before it",
        "interrupted",
        "failed before output",
        "failed with usage",
        "token count",
        "no job",
    ],
)
def test_tokens_of_a_request_are_those_reported_or_an_estimate(
    record: RequestRecord, tokens: int
) -> None:
    assert tokens_of(record) == tokens
