import asyncio
import io
import logging
from collections.abc import AsyncIterator

import aiohttp
import anthropic
import msgspec
import openai
import pytest

from provider_agent.coordinator.access import SecretSet
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.limits import MAX_REQUEST_BYTES
from tests.kit.coordinator_harness import JSON_HEADERS
from tests.kit.scripted_agent import ScriptedAgent, offer
from tests.kit.scripted_job import ScriptedJob
from tests.unit.coordinator.http.chat_requests import CHAT, MESSAGES

BODY = b'{"model":"tiny"}'
ALL_OPERATIONS = ("chat", "completions", "embeddings", "responses", "messages", "count_tokens")


def refused(records: list[logging.LogRecord]) -> list[tuple[object, ...]]:
    """Return the fields of the lines about refused requests."""
    lines = [record for record in records if record.message == "request refused"]
    return [tuple(getattr(record, "fields", {}).values()) for record in lines]


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("/v1/chat/completions", "chat"),
        ("/v1/completions", "completions"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/responses", "responses"),
        ("/v1/messages", "messages"),
        ("/v1/messages/count_tokens", "count_tokens"),
    ],
)
async def test_each_path_starts_a_job_with_its_operation_if_the_model_offers_it(
    coordinator: Coordinator, http: aiohttp.ClientSession, path: str, operation: str
) -> None:
    async def answer(job: ScriptedJob) -> None:
        await job.answer(job.job.operation.encode(), content_type="text/plain")

    models = [offer(operations=ALL_OPERATIONS), offer("chatty", operations=["chat"])]
    async with ScriptedAgent(coordinator.connect_url, models=models, answer=answer):
        async with http.post(path, data=BODY) as response:
            assert await response.text() == operation
        async with http.post(path, data=b'{"model":"chatty"}') as response:
            assert response.status == (200 if operation == "chat" else 400)


@pytest.mark.parametrize(
    ("method", "path", "status", "hint"),
    [
        ("GET", "/nothing", 404, "begin with `/v1`"),
        ("POST", "/chat/completions", 404, "Did you mean `/v1/chat/completions`?"),
        ("POST", "/v1/v1/messages", 404, "Did you mean `/v1/messages`?"),
        ("GET", "/models/", 404, "Did you mean `/v1/models`?"),
        ("GET", CHAT, 405, "use POST"),
        ("GET", MESSAGES, 405, "use POST"),
        ("POST", "/healthz", 405, "use GET or HEAD"),
    ],
)
async def test_unknown_path_or_method_returns_an_error_in_the_wire_format(
    http: aiohttp.ClientSession,
    caplog: pytest.LogCaptureFixture,
    method: str,
    path: str,
    status: int,
    hint: str,
) -> None:
    caplog.set_level(logging.INFO)
    async with http.request(method, path) as response:
        assert response.status == status
        body = await response.json()
        assert ("type" in body) == (path == MESSAGES)
        assert hint in body["error"]["message"]
        assert ("Allow" in response.headers) == (status == 405)
    assert refused(caplog.records) == [(status, method, path, "127.0.0.1")]


async def test_body_over_the_size_limit_receives_413(settings: CoordinatorSettings) -> None:
    small = msgspec.structs.replace(settings, max_request_bytes=len(BODY))
    async with (
        Coordinator(small) as coordinator,
        aiohttp.ClientSession(coordinator.http_url, headers=JSON_HEADERS) as http,
    ):
        for body, status in ((BODY, 503), (BODY + b" ", 413)):
            async with http.post(MESSAGES, data=body) as response:
                assert response.status == status
                assert (await response.json())["type"] == "error"


async def test_body_without_a_length_over_the_size_limit_receives_413(
    settings: CoordinatorSettings,
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield BODY
        yield b" "

    small = msgspec.structs.replace(settings, max_request_bytes=len(BODY))
    async with (
        Coordinator(small) as coordinator,
        aiohttp.ClientSession(coordinator.http_url, headers=JSON_HEADERS) as http,
        http.post(MESSAGES, data=pieces()) as response,
    ):
        assert response.status == 413


async def test_413_names_the_limit(http: aiohttp.ClientSession) -> None:
    async with http.post(MESSAGES, data=io.BytesIO(bytes(MAX_REQUEST_BYTES + 1))) as response:
        assert "larger than the limit of 16 MiB" in (await response.json())["error"]["message"]


async def test_body_that_does_not_arrive_in_time_receives_408(
    settings: CoordinatorSettings,
) -> None:
    impatient = msgspec.structs.replace(settings, body_timeout_s=0.01)
    async with Coordinator(impatient) as coordinator:
        reader, writer = await asyncio.open_connection("127.0.0.1", _port(coordinator))
        head = b"POST /v1/messages HTTP/1.1\r\nContent-Type: application/json\r\n"
        writer.write(head + b"Host: a\r\nContent-Length: 9\r\n\r\n{")
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"nonsense", b'{"model":7}'],
    ids=["empty", "an array", "not JSON", "model is a number"],
)
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_invalid_body_receives_400(
    http: aiohttp.ClientSession, path: str, body: bytes
) -> None:
    async with http.post(path, data=body) as response:
        assert response.status == 400
        assert (await response.json())["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic secret"}, 401),
        ({"x-api-key": "wrong"}, 401),
        ({"Authorization": "Bearer secret"}, 503),
        ({"authorization": "bearer secret"}, 503),
        ({"x-api-key": "secret"}, 503),
    ],
    ids=[
        "no key",
        "wrong bearer token",
        "basic authentication",
        "wrong x-api-key",
        "bearer token",
        "lower-case bearer",
        "x-api-key",
    ],
)
async def test_configured_api_key_is_required_except_for_the_health_check(
    settings: CoordinatorSettings,
    caplog: pytest.LogCaptureFixture,
    headers: dict[str, str],
    status: int,
) -> None:
    caplog.set_level(logging.INFO)
    guarded = msgspec.structs.replace(settings, api_keys=SecretSet(["secret"]))
    async with (
        Coordinator(guarded) as coordinator,
        aiohttp.ClientSession(coordinator.http_url, headers={**JSON_HEADERS, **headers}) as http,
    ):
        async with http.post(CHAT, data=BODY) as response:
            assert response.status == status
        async with http.get("/v1/models") as response:
            assert response.status == (401 if status == 401 else 200)
        async with http.get("/v1/models/tiny") as response:
            assert response.status == (401 if status == 401 else 404)
        async with http.get("/healthz") as response:
            assert (response.status, await response.json()) == (200, {"status": "ok"})
    logged = [(line[0], line[2]) for line in refused(caplog.records)]
    models = [(401, "/v1/models"), (401, "/v1/models/tiny")]
    assert logged == ([(401, CHAT), *models] if status == 401 else [(404, "/v1/models/tiny")])
    assert "secret" not in caplog.text


async def test_requests_beyond_max_requests_receive_503(settings: CoordinatorSettings) -> None:
    narrow = msgspec.structs.replace(settings, max_requests=1)
    async with (
        Coordinator(narrow) as coordinator,
        aiohttp.ClientSession(coordinator.http_url, headers=JSON_HEADERS) as http,
        ScriptedAgent(coordinator.connect_url) as agent,
    ):
        asking = asyncio.create_task(http.post(CHAT, data=BODY))
        job = await agent.next_job()
        async with http.post(CHAT, data=BODY) as response:
            assert response.status == 503
            assert response.headers["Retry-After"]
        await job.answer(b"{}")
        assert (await asking).status == 200


async def test_models_are_listed_in_the_requested_format(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    models = [
        offer("org/both"),
        offer("a-openai", formats=["openai"], operations=["chat"]),
    ]
    async with ScriptedAgent(coordinator.connect_url, models=models):
        async with http.get("/v1/models") as response:
            body = await response.json()
            assert [entry["id"] for entry in body["data"]] == ["a-openai", "org/both"]
        async with http.get("/v1/models", headers={"anthropic-version": "2023-06-01"}) as response:
            assert (await response.json())["first_id"] == "org/both"
        async with http.get("/v1/models/org/both") as response:
            assert (await response.json())["id"] == "org/both"


async def test_official_openai_client_raises_its_typed_exceptions(coordinator: Coordinator) -> None:
    async def answer(job: ScriptedJob) -> None:
        await job.fail(job.job.model_id)

    codes = {
        "bad_request": openai.BadRequestError,
        "format_not_supported": openai.BadRequestError,
        "out_of_capacity": openai.InternalServerError,
        "model_not_loaded": openai.InternalServerError,
    }
    models = [offer(code) for code in codes]
    async with (
        ScriptedAgent(coordinator.connect_url, models=models, answer=answer),
        openai.AsyncOpenAI(
            base_url=coordinator.http_url + "/v1", api_key="none", max_retries=0, timeout=60
        ) as client,
    ):
        for code, expected in {**codes, "unknown": openai.NotFoundError}.items():
            with pytest.raises(expected) as caught:
                await client.chat.completions.create(model=code, messages=[])
            assert caught.value.request_id
        assert [model.id async for model in client.models.list()] == sorted(codes)


async def test_official_anthropic_client_raises_its_typed_exceptions(
    coordinator: Coordinator,
) -> None:
    async def answer(job: ScriptedJob) -> None:
        await job.fail(job.job.model_id)

    codes = {
        "bad_request": anthropic.BadRequestError,
        "internal": anthropic.InternalServerError,
    }
    models = [offer(code) for code in codes]
    async with (
        ScriptedAgent(coordinator.connect_url, models=models, answer=answer),
        anthropic.AsyncAnthropic(
            base_url=coordinator.http_url, api_key="none", max_retries=0, timeout=60
        ) as client,
    ):
        for code, expected in {**codes, "unknown": anthropic.NotFoundError}.items():
            with pytest.raises(expected) as caught:
                await client.messages.create(model=code, messages=[], max_tokens=1)
            assert caught.value.request_id
        assert [model.id async for model in client.models.list()] == sorted(codes)


async def test_official_clients_raise_for_an_interrupted_stream(coordinator: Coordinator) -> None:
    async def answer(job: ScriptedJob) -> None:
        await job.start()
        await job.send(b": comment\n\n")
        await job.fail("backend_error", "the server crashed")

    async with (
        ScriptedAgent(coordinator.connect_url, answer=answer),
        openai.AsyncOpenAI(
            base_url=coordinator.http_url + "/v1", api_key="none", max_retries=0, timeout=60
        ) as client,
        anthropic.AsyncAnthropic(
            base_url=coordinator.http_url, api_key="none", max_retries=0, timeout=60
        ) as other,
    ):
        chunks = await client.chat.completions.create(model="tiny", messages=[], stream=True)
        with pytest.raises(openai.APIError, match="inference server failed"):
            [chunk async for chunk in chunks]
        events = await other.messages.create(model="tiny", messages=[], max_tokens=1, stream=True)
        with pytest.raises(anthropic.APIStatusError, match="inference server failed"):
            [event async for event in events]


def _port(coordinator: Coordinator) -> int:
    return int(coordinator.http_url.rpartition(":")[2])
