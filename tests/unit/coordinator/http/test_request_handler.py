import asyncio
import uuid

import aiohttp
import msgspec
import pytest

from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.errors import REGISTRY, ErrorCode
from provider_agent.protocol.frames import ResponseHeader
from provider_agent.protocol.limits import MIB, MIN_WINDOW_BYTES
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.scripted_job import EVENT_STREAM, ScriptedJob

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
BODY = b'{ "model":"tiny",  "messages": [], "emoji": "\xf0\x9f\x90\xa2" }'

OPENAI_EVENTS = (b'data: {"id":1}\n\n', b"data: [DO", b"NE]\n\n")
ANTHROPIC_EVENTS = (b"event: ping\r\ndata: {}\r\n\r\n", b'event: message_stop\ndata: {"a":1}\n\n')


@pytest.mark.parametrize(
    ("path", "wire_format", "operation", "pieces", "content_type"),
    [
        (CHAT, "openai", "chat", OPENAI_EVENTS, EVENT_STREAM + "; charset=utf-8"),
        (CHAT, "openai", "chat", (b'{"choices":', b" []}"), "application/json"),
        (MESSAGES, "anthropic", "messages", ANTHROPIC_EVENTS, EVENT_STREAM),
        (MESSAGES, "anthropic", "messages", (b'{"type":"message"}',), "application/json"),
        (CHAT, "openai", "chat", (), "application/json"),
    ],
    ids=["OpenAI events", "OpenAI JSON", "Anthropic events", "Anthropic JSON", "empty"],
)
async def test_request_and_response_are_forwarded_byte_for_byte(
    coordinator: Coordinator,
    http: aiohttp.ClientSession,
    path: str,
    wire_format: str,
    operation: str,
    pieces: tuple[bytes, ...],
    content_type: str,
) -> None:
    async def answer(job: ScriptedJob) -> None:
        assert job.job.request == BODY
        assert (job.job.format, job.job.operation) == (wire_format, operation)
        assert job.job.model_id == "tiny"
        await job.answer(*pieces, content_type=content_type)

    async with (
        ScriptedAgent(coordinator.connect_url, answer=answer) as agent,
        http.post(path, data=BODY) as response,
    ):
        assert response.status == 200
        assert response.headers["Content-Type"] == content_type
        assert response.headers["Cache-Control"] == "no-cache"
        is_stream = content_type.startswith(EVENT_STREAM)
        assert ("X-Accel-Buffering" in response.headers) == is_stream
        assert await response.read() == b"".join(pieces)
        (job,) = agent.jobs.values()
        assert response.headers["x-request-id"] == job.job.job_id.hex()
        assert uuid.UUID(bytes=job.job.job_id).version == 4
    assert coordinator.counters.completed == 1


async def test_each_chunk_is_forwarded_when_it_arrives(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async with ScriptedAgent(coordinator.connect_url) as agent:
        asking = asyncio.create_task(_post(http))
        job = await agent.next_job()
        await job.start()
        await job.send(b"data: 1\n\n")
        response = await asking
        assert await response.content.readany() == b"data: 1\n\n"
        await job.send(b"data: 2\n\n")
        assert await response.content.readany() == b"data: 2\n\n"
        await job.finish()
        assert await response.content.read() == b""


async def test_status_of_job_started_is_forwarded(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async def answer(job: ScriptedJob) -> None:
        await job.answer(b"{}", status=202, content_type="application/json")

    async with ScriptedAgent(coordinator.connect_url, answer=answer):
        response = await _post(http)
        assert response.status == 202


async def test_content_type_with_control_characters_is_replaced(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async def answer(job: ScriptedJob) -> None:
        await job.answer(b"{}", content_type="text/plain\r\nSet-Cookie: a=b")

    async with ScriptedAgent(coordinator.connect_url, answer=answer):
        response = await _post(http)
        assert response.headers["Content-Type"] == "application/octet-stream"
        assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize("streaming", [False, True], ids=["before output", "after output"])
async def test_job_is_cancelled_when_its_client_disconnects(
    coordinator: Coordinator, http: aiohttp.ClientSession, streaming: bool
) -> None:
    async with ScriptedAgent(coordinator.connect_url) as agent:
        asking = asyncio.create_task(_post(http))
        job = await agent.next_job()
        if streaming:
            await job.start()
            await job.send(b"data: 1\n\n")
            (await asking).close()
        else:
            asking.cancel()
        await job.cancelled.wait()
        assert coordinator.agents()[0].in_flight == 1
        await job.fail("cancelled")
        await agent.settle()
        assert coordinator.agents()[0].in_flight == 0
        assert coordinator.counters.disconnected == 1


async def test_bytes_received_after_a_cancel_are_acknowledged_and_dropped(
    settings: CoordinatorSettings,
) -> None:
    small = msgspec.structs.replace(settings, window_bytes=MIN_WINDOW_BYTES)
    async with (
        Coordinator(small) as coordinator,
        aiohttp.ClientSession(coordinator.http_url) as http,
        ScriptedAgent(coordinator.connect_url) as agent,
    ):
        asking = asyncio.create_task(_post(http))
        job = await agent.next_job()
        asking.cancel()
        await job.cancelled.wait()
        await job.start()
        await job.send(bytes(4 * MIN_WINDOW_BYTES))
        await job.finish()
        await job.done.wait()


async def test_slow_client_stalls_only_its_own_job(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    size = 16 * MIB  # more than the window and the socket buffers of both sides hold

    async def answer(job: ScriptedJob) -> None:
        await job.answer(bytes(size) if b"big" in job.job.request else b"{}")

    async with ScriptedAgent(coordinator.connect_url, answer=answer) as agent:
        slow = await http.post(CHAT, data=b'{"model":"tiny","user":"big"}')
        for _ in range(20):
            quick = await _post(http)
            assert await quick.read() == b"{}"
        stalled = next(iter(agent.jobs.values()))
        assert stalled.stream.acked < size
        assert not stalled.done.is_set()
        assert sum([len(piece) async for piece in slow.content.iter_any()]) == size
        await stalled.done.wait()


async def test_only_a_valid_traceparent_is_forwarded(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    async def answer(job: ScriptedJob) -> None:
        await job.answer(job.job.traceparent.encode())

    async with ScriptedAgent(coordinator.connect_url, answer=answer):
        for sent, expected in ((valid, valid), ("nonsense", "")):
            async with http.post(CHAT, data=BODY, headers={"traceparent": sent}) as response:
                assert await response.text() == expected


async def test_job_without_an_end_causes_504_and_is_cancelled_after_its_deadline(
    settings: CoordinatorSettings,
) -> None:
    short = msgspec.structs.replace(settings, deadline_s=0.05, deadline_grace_s=0)
    async with (
        Coordinator(short) as coordinator,
        aiohttp.ClientSession(coordinator.http_url) as http,
        ScriptedAgent(coordinator.connect_url) as agent,
    ):
        response = await _post(http)
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
        response = await _post(http)
        assert response.status == 422
        assert (await response.json())["error"] == {
            "message": "too long",
            "type": "invalid_request_error",
            "param": None,
            "code": "context_length_exceeded",
        }
    assert coordinator.counters.failed == 1


@pytest.mark.parametrize("status", [100, 204, 304])
async def test_status_without_a_body_is_an_invalid_response(
    coordinator: Coordinator, http: aiohttp.ClientSession, status: int
) -> None:
    async def answer(job: ScriptedJob) -> None:
        await job.answer(b"{}", status=status)

    async with ScriptedAgent(coordinator.connect_url, answer=answer):
        response = await _post(http)
        assert response.status == 502
        assert (await response.json())["error"]["code"] == "invalid_response"


async def test_result_without_job_started_is_an_invalid_response(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async with ScriptedAgent(coordinator.connect_url, answer=ScriptedJob.finish):
        response = await _post(http)
        assert response.status == 502


@pytest.mark.parametrize(
    ("path", "sent", "added"),
    [
        (CHAT, b"data: 1\n\n", b'data: {"error":{'),
        (MESSAGES, b"data: 1\r\n\r\n", b'event: error\ndata: {"type":"error",'),
    ],
    ids=["OpenAI", "Anthropic"],
)
async def test_interrupted_event_stream_ends_with_one_error_event(
    coordinator: Coordinator, http: aiohttp.ClientSession, path: str, sent: bytes, added: bytes
) -> None:
    async def answer(job: ScriptedJob) -> None:
        await job.start()
        await job.send(sent)
        await job.fail("backend_error", "the server crashed")

    async with ScriptedAgent(coordinator.connect_url, answer=answer):
        response = await http.post(path, data=BODY)
        received = await response.read()
        assert received.startswith(sent + added)
        assert received.endswith(b"\n\n")
        assert received.count(REGISTRY[ErrorCode.BACKEND_ERROR].meaning.encode()) == 1


async def test_error_event_of_the_server_is_the_only_one(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    sent = b'data: 1\n\ndata: {"error":{"code":500}}\n\ndata: [DONE]\n\n'

    async def answer(job: ScriptedJob) -> None:
        await job.start()
        await job.send(sent)
        await job.fail("backend_error", error_relayed=True)

    async with ScriptedAgent(coordinator.connect_url, answer=answer):
        assert await (await _post(http)).read() == sent


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
        response = await _post(http)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_client_receives_the_headers_of_the_list(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async def answer(job: ScriptedJob) -> None:
        await job.start(
            headers=[
                ResponseHeader("openai-processing-ms", "17"),
                ResponseHeader("x-request-id", "theirs"),
                ResponseHeader("set-cookie", "a=b"),
                ResponseHeader("retry-after", "1\r\nset-cookie: a=b"),
            ]
        )
        await job.send(b"data: 1\n\n")
        await job.finish()

    async with ScriptedAgent(coordinator.connect_url, answer=answer):
        response = await _post(http)
        assert response.headers["openai-processing-ms"] == "17"
        assert response.headers["x-upstream-request-id"] == "theirs"
        assert response.headers["x-request-id"] != "theirs"
        assert not {"set-cookie", "retry-after"} & {name.lower() for name in response.headers}


async def test_interrupted_json_response_aborts_the_connection(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async with ScriptedAgent(coordinator.connect_url) as agent:
        asking = asyncio.create_task(_post(http))
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
        aiohttp.ClientSession(coordinator.http_url) as http,
        ScriptedAgent(coordinator.connect_url) as agent,
    ):
        asking = asyncio.create_task(_post(http))
        job = await agent.next_job()
        await job.start()
        await job.send(b"data: 1\n\n")
        response = await asking
        agent.cut()
        text = (await response.read()).decode()
        assert text.startswith("data: 1\n\ndata: ")
        assert "backend_unreachable" in text
        assert coordinator.agents() == []


async def test_request_is_sent_to_another_agent_when_the_agent_is_lost_before_output(
    settings: CoordinatorSettings,
) -> None:
    async with (
        Coordinator(msgspec.structs.replace(settings, resume_ms=0)) as coordinator,
        aiohttp.ClientSession(coordinator.http_url) as http,
        ScriptedAgent(coordinator.connect_url) as one,
        ScriptedAgent(coordinator.connect_url) as two,
    ):
        first, second = sorted((one, two), key=lambda agent: agent.public_key)
        asking = asyncio.create_task(_post(http))
        await first.next_job()
        first.cut()
        job = await second.next_job()
        await job.answer(b"data: ok\n\n")
        assert await (await asking).read() == b"data: ok\n\n"
        assert coordinator.counters.retried == 1


async def test_retryable_error_is_returned_after_one_job_on_each_agent(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async def answer(job: ScriptedJob) -> None:
        await job.fail("backend_overloaded", retry_after_ms=4200)

    async with (
        ScriptedAgent(coordinator.connect_url, answer=answer) as one,
        ScriptedAgent(coordinator.connect_url, answer=answer) as two,
    ):
        response = await _post(http)
        assert response.status == 503
        assert response.headers["Retry-After"] == "5"
        assert (len(one.jobs), len(two.jobs)) == (1, 1)
        assert one.jobs.keys() != two.jobs.keys()


async def test_number_of_agents_tried_per_request_is_limited(settings: CoordinatorSettings) -> None:
    async def answer(job: ScriptedJob) -> None:
        await job.fail("internal")

    bounded = msgspec.structs.replace(settings, max_attempts=2)
    async with (
        Coordinator(bounded) as coordinator,
        aiohttp.ClientSession(coordinator.http_url) as http,
        ScriptedAgent(coordinator.connect_url, answer=answer) as one,
        ScriptedAgent(coordinator.connect_url, answer=answer) as two,
        ScriptedAgent(coordinator.connect_url, answer=answer) as three,
    ):
        response = await _post(http)
        assert response.status == 500
        assert sum(len(agent.jobs) for agent in (one, two, three)) == 2


async def test_invalid_request_is_not_sent_to_another_agent(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async def answer(job: ScriptedJob) -> None:
        await job.fail("bad_request", upstream_status=400)

    async with (
        ScriptedAgent(coordinator.connect_url, answer=answer) as one,
        ScriptedAgent(coordinator.connect_url, answer=answer) as two,
    ):
        response = await _post(http)
        assert response.status == 400
        assert len(one.jobs) + len(two.jobs) == 1


async def test_agents_at_capacity_receive_no_job(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async with ScriptedAgent(coordinator.connect_url, max_concurrent=1) as agent:
        asking = asyncio.create_task(_post(http))
        job = await agent.next_job()
        response = await _post(http)
        assert response.status == 503
        assert response.headers["Retry-After"]
        assert (await response.json())["error"]["code"] == "out_of_capacity"
        await job.answer(b"{}")
        assert (await asking).status == 200


async def _post(http: aiohttp.ClientSession) -> aiohttp.ClientResponse:
    return await http.post(CHAT, data=BODY)
