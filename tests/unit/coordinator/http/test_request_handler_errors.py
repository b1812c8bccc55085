import asyncio

import aiohttp
import msgspec
import pytest

from provider_agent.coordinator.http.client_errors import error_of_code
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.errors import ErrorCode
from tests.kit.coordinator_harness import JSON_HEADERS
from tests.kit.scripted_agent import ScriptedAgent, offer
from tests.kit.scripted_job import ScriptedJob
from tests.unit.coordinator.http.chat_requests import BODY, CHAT, MESSAGES, RESPONSES, post_chat


async def test_job_without_an_end_causes_504_and_is_cancelled_after_its_deadline(
    settings: CoordinatorSettings,
) -> None:
    short = msgspec.structs.replace(settings, deadline_s=0.05, deadline_grace_s=0)
    async with (
        Coordinator(short) as coordinator,
        aiohttp.ClientSession(coordinator.http_url, headers=JSON_HEADERS) as http,
        ScriptedAgent(coordinator.connect_url) as agent,
    ):
        response = await post_chat(http)
        assert response.status == 504
        job = await agent.next_job()
        assert job.job.deadline_ms <= 50
        await job.cancelled.wait()


async def test_error_before_the_first_byte_is_an_error_response(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async def answer(job: ScriptedJob) -> None:
        await job.start()
        await job.fail("context_length_exceeded", "too long", upstream_status=422)

    async with ScriptedAgent(coordinator.connect_url, answer=answer):
        response = await post_chat(http)
        assert response.status == 422
        assert (await response.json())["error"] == {
            "message": "too long",
            "type": "invalid_request_error",
            "param": None,
            "code": "context_length_exceeded",
        }
    assert coordinator.counters.failed == 1


@pytest.mark.parametrize("status", [100, 204, 304])
async def test_status_that_allows_no_body_is_an_invalid_response(
    coordinator: Coordinator, http: aiohttp.ClientSession, status: int
) -> None:
    async def answer(job: ScriptedJob) -> None:
        await job.answer(b"{}", status=status)

    async with ScriptedAgent(coordinator.connect_url, answer=answer):
        response = await post_chat(http)
        assert response.status == 502
        assert (await response.json())["error"]["code"] == "invalid_response"


async def test_result_without_job_started_is_an_invalid_response(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async with ScriptedAgent(coordinator.connect_url, answer=ScriptedJob.finish):
        response = await post_chat(http)
        assert response.status == 502


@pytest.mark.parametrize(
    ("path", "sent", "added"),
    [
        (CHAT, b"data: 1\n\n", b'data: {"error":{'),
        (MESSAGES, b"data: 1\r\n\r\n", b'event: error\ndata: {"type":"error",'),
        (RESPONSES, b'data: {"sequence_number":4}\n\n', b'event: error\ndata: {"type":"error",'),
    ],
    ids=["OpenAI", "Anthropic", "Responses"],
)
async def test_interrupted_event_stream_ends_with_one_error_event(
    coordinator: Coordinator, http: aiohttp.ClientSession, path: str, sent: bytes, added: bytes
) -> None:
    async def answer(job: ScriptedJob) -> None:
        await job.start()
        await job.send(sent)
        await job.fail("backend_error", "the server crashed")

    models = [offer(operations=["chat", "messages", "responses"])]
    async with ScriptedAgent(coordinator.connect_url, answer=answer, models=models):
        response = await http.post(path, data=BODY)
        received = await response.read()
        assert received.startswith(sent + added)
        assert (b'"sequence_number":5' in received) == (path == RESPONSES)
        assert received.endswith(b"\n\n")
        assert received.count(error_of_code(ErrorCode.BACKEND_ERROR).message.encode()) == 1


@pytest.mark.parametrize(
    ("error_event", "relayed"),
    [
        (b'data: {"error":{"code":500}}\n\n', False),
        (b'event: error\ndata: {"type":"error"}\n\n', False),
        (b'event: response.failed\ndata: {"type":"response.failed"}\n\n', False),
        (b"data: an unknown form\n\n", True),
    ],
)
async def test_relayed_error_event_is_not_followed_by_another(
    coordinator: Coordinator, http: aiohttp.ClientSession, error_event: bytes, relayed: bool
) -> None:
    # Regression: without `error_relayed`, which an older agent does not send and the coordinator's
    # own errors do not set, the client received a second error event.
    sent = b"data: 1\n\n" + error_event + b"data: [DONE]\n\n"

    async def answer(job: ScriptedJob) -> None:
        await job.start()
        await job.send(sent)
        await job.fail("backend_error", error_relayed=relayed)

    async with ScriptedAgent(coordinator.connect_url, answer=answer):
        assert await (await post_chat(http)).read() == sent


@pytest.mark.parametrize(
    ("sent", "between_events"), [(b"data: 1\n", True), (b"data: 1", False), (b"data: 1\n\n", False)]
)
async def test_stream_that_is_cut_within_an_event_aborts_the_connection(
    coordinator: Coordinator, http: aiohttp.ClientSession, sent: bytes, between_events: bool
) -> None:
    async def answer(job: ScriptedJob) -> None:
        await job.start()
        await job.send(sent)
        await job.fail("backend_error", between_events=between_events)

    async with ScriptedAgent(coordinator.connect_url, answer=answer):
        response = await post_chat(http)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_interrupted_json_response_aborts_the_connection(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async with ScriptedAgent(coordinator.connect_url) as agent:
        asking = asyncio.create_task(post_chat(http))
        job = await agent.next_job()
        await job.start(content_type="application/json")
        await job.send(b'{"half":')
        response = await asking
        assert await response.content.readany() == b'{"half":'
        await job.fail("backend_error")
        with pytest.raises(aiohttp.ClientError):
            await response.read()


async def test_agent_lost_during_a_stream_causes_an_error_event(
    settings: CoordinatorSettings,
) -> None:
    async with (
        Coordinator(msgspec.structs.replace(settings, resume_ms=0)) as coordinator,
        aiohttp.ClientSession(coordinator.http_url, headers=JSON_HEADERS) as http,
        ScriptedAgent(coordinator.connect_url) as agent,
    ):
        asking = asyncio.create_task(post_chat(http))
        job = await agent.next_job()
        await job.start()
        await job.send(b"data: 1\n\n")
        response = await asking
        agent.cut()
        text = (await response.read()).decode()
        assert text.startswith("data: 1\n\ndata: ")
        assert "provider_lost" in text
        assert "inference server" not in text, "the server was blamed for a lost agent"
        assert coordinator.agents() == []


@pytest.mark.parametrize("sent", [b"data: 1\n\ndata: 2", b"data: 1\n\ndata: 2\n"])
async def test_agent_lost_within_an_event_aborts_the_connection(
    settings: CoordinatorSettings, sent: bytes
) -> None:
    # The coordinator's own error for the lost link says nothing about the position in the stream.
    async with (
        Coordinator(msgspec.structs.replace(settings, resume_ms=0)) as coordinator,
        aiohttp.ClientSession(coordinator.http_url, headers=JSON_HEADERS) as http,
        ScriptedAgent(coordinator.connect_url) as agent,
    ):
        asking = asyncio.create_task(post_chat(http))
        job = await agent.next_job()
        await job.start()
        await job.send(sent)
        response = await asking
        assert await response.content.readexactly(len(sent)) == sent
        agent.cut()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
