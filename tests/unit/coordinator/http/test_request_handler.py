import asyncio
import uuid

import aiohttp
import msgspec
import pytest

from provider_agent.coordinator.http import request_handler
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.frames import ResponseHeader
from provider_agent.protocol.limits import MIB, MIN_WINDOW_BYTES
from tests.kit.coordinator_harness import JSON_HEADERS
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.scripted_job import EVENT_STREAM, ScriptedJob
from tests.unit.coordinator.http.chat_requests import BODY, CHAT, MESSAGES, post_chat

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
        asking = asyncio.create_task(post_chat(http))
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
        response = await post_chat(http)
        assert response.status == 202


async def test_content_type_with_control_characters_is_replaced(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async def answer(job: ScriptedJob) -> None:
        await job.answer(b"{}", content_type="text/plain\r\nSet-Cookie: a=b")

    async with ScriptedAgent(coordinator.connect_url, answer=answer):
        response = await post_chat(http)
        assert response.headers["Content-Type"] == "application/octet-stream"
        assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize("streaming", [False, True], ids=["before output", "after output"])
async def test_job_is_cancelled_when_its_client_disconnects(
    coordinator: Coordinator, http: aiohttp.ClientSession, streaming: bool
) -> None:
    async with ScriptedAgent(coordinator.connect_url) as agent:
        asking = asyncio.create_task(post_chat(http))
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


async def test_a_client_that_leaves_after_the_final_event_has_the_whole_response(
    coordinator: Coordinator, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with ScriptedAgent(coordinator.connect_url) as agent:
        asking = asyncio.create_task(post_chat(http))
        job = await agent.next_job()
        await job.start()
        await job.send(b"data: 1\n\ndata: [DONE]\n\n")
        response = await asking
        await response.content.readuntil(b"[DONE]\n\n")
        response.close()
        (await http.get("/healthz")).close()  # the coordinator has noticed the disconnection
        await agent.settle()
        assert not job.cancelled.is_set()

        await job.finish()
        await job.done.wait()

    (line,) = (one for one in caplog.records if one.message == "request finished")
    fields = line.fields  # type: ignore[attr-defined]
    assert (fields["code"], fields["input_tokens"], fields["output_tokens"]) == ("ok", 3, 4)
    assert coordinator.counters.completed == 1
    assert coordinator.counters.disconnected == 0


async def test_the_job_is_cancelled_if_its_end_does_not_follow_the_final_event(
    coordinator: Coordinator, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_handler, "END_TIMEOUT_S", 0.01)
    async with ScriptedAgent(coordinator.connect_url) as agent:
        asking = asyncio.create_task(post_chat(http))
        job = await agent.next_job()
        await job.start()
        await job.send(b"data: [DONE]\n\n")
        response = await asking
        await response.content.readuntil(b"[DONE]\n\n")
        response.close()

        await job.cancelled.wait()
        await job.fail("cancelled")
        await agent.settle()
    assert coordinator.counters.disconnected == 1


async def test_bytes_received_after_a_cancel_are_acknowledged_and_dropped(
    settings: CoordinatorSettings,
) -> None:
    small = msgspec.structs.replace(settings, window_bytes=MIN_WINDOW_BYTES)
    async with (
        Coordinator(small) as coordinator,
        aiohttp.ClientSession(coordinator.http_url, headers=JSON_HEADERS) as http,
        ScriptedAgent(coordinator.connect_url) as agent,
    ):
        asking = asyncio.create_task(post_chat(http))
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
    size = 16 * MIB  # more than fits into the window and the socket buffers of both sides

    async def answer(job: ScriptedJob) -> None:
        await job.answer(bytes(size) if b"big" in job.job.request else b"{}")

    async with ScriptedAgent(coordinator.connect_url, answer=answer) as agent:
        slow = await http.post(CHAT, data=b'{"model":"tiny","user":"big"}')
        for _ in range(20):
            quick = await post_chat(http)
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


async def test_only_valid_values_of_known_headers_reach_the_client(
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
        response = await post_chat(http)
        assert response.headers["openai-processing-ms"] == "17"
        assert response.headers["x-upstream-request-id"] == "theirs"
        assert response.headers["x-request-id"] != "theirs"
        assert not {"set-cookie", "retry-after"} & {name.lower() for name in response.headers}


@pytest.mark.parametrize(
    ("relayed", "sent"),
    [("7", "7"), ("9" * 256, "120"), ("Fri, 31 Dec 9999 23:59:59 GMT", None), ("-1", None)],
)
async def test_relayed_retry_after_is_limited(
    coordinator: Coordinator, http: aiohttp.ClientSession, relayed: str, sent: str | None
) -> None:
    # An agent could make clients wait for years.
    async def answer(job: ScriptedJob) -> None:
        await job.start(429, "application/json", [ResponseHeader("retry-after", relayed)])
        await job.send(b"{}")
        await job.finish()

    async with ScriptedAgent(coordinator.connect_url, answer=answer):
        assert (await post_chat(http)).headers.get("Retry-After") == sent
