"""A request over HTTP, through coordinator and agent, to a real llama.cpp server and back."""

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from provider_agent.adapters.responses.stream_validator import StreamValidator
from provider_agent.agent.cli.demo.llamacpp_process import LlamaCppProcess
from provider_agent.agent.cli.demo.response_recorder import ResponseRecorder
from provider_agent.agent.config import BackendConfig
from provider_agent.coordinator.settings import CoordinatorSettings, ReceiptMode
from provider_agent.protocol.formats import MAIN_OPERATION, WireFormat
from tests.kit.end_to_end_harness import EndToEndHarness, end_to_end_harness

PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}


@pytest.fixture
async def recorder(llamacpp_server: LlamaCppProcess) -> AsyncIterator[ResponseRecorder]:
    async with ResponseRecorder(llamacpp_server.url) as recorder:
        yield recorder


@pytest.fixture
async def harness(recorder: ResponseRecorder, tmp_path: Path) -> AsyncIterator[EndToEndHarness]:
    async with end_to_end_harness(
        tmp_path, BackendConfig(kind="llamacpp", url=recorder.url)
    ) as harness:
        yield harness


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def make_request(**fields: Any) -> dict[str, Any]:
    message = {"role": "user", "content": "Tell me about the sea."}
    return {"model": "tiny", "max_tokens": 24, "messages": [message], **fields}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire_format", ["openai", "anthropic"])
async def test_client_receives_every_byte_of_the_server_response(
    harness: EndToEndHarness,
    client: aiohttp.ClientSession,
    recorder: ResponseRecorder,
    wire_format: str,
    stream: bool,
) -> None:
    url = harness.url + PATHS[wire_format]

    async with client.post(url, json=make_request(stream=stream)) as response:
        relayed = await response.read()

    assert response.status == 200
    assert response.content_type == ("text/event-stream" if stream else "application/json")
    assert len(relayed) > 100
    assert relayed == recorder.last_body


async def test_first_bytes_arrive_before_the_server_has_finished(
    harness: EndToEndHarness, client: aiohttp.ClientSession
) -> None:
    body = make_request(stream=True, max_tokens=1500)

    async with client.post(harness.url + PATHS["openai"], json=body) as response:
        first = await response.content.readany()
        assert first
        assert b"[DONE]" not in first
        assert harness.service.jobs.in_flight == 1
        remainder = await response.content.read()

    assert remainder.endswith(b"data: [DONE]\n\n")


async def test_client_disconnect_stops_the_generation(
    harness: EndToEndHarness, client: aiohttp.ClientSession, llamacpp_server: LlamaCppProcess
) -> None:
    body = make_request(stream=True, max_tokens=2000)
    async with client.post(harness.url + PATHS["openai"], json=body) as response:
        await response.content.readany()
        response.close()

    await harness.service.jobs.wait_until_idle()
    while await _has_busy_slots(client, llamacpp_server.url):  # noqa: ASYNC110 - no event exists
        await asyncio.sleep(0.01)


async def _has_busy_slots(client: aiohttp.ClientSession, server_url: str) -> bool:
    async with client.get(f"{server_url}/slots") as response:
        return any(slot["is_processing"] for slot in await response.json())


@pytest.mark.parametrize("wire_format", ["openai", "anthropic"])
async def test_too_long_prompt_returns_400_and_does_not_raise_the_error_rate(
    harness: EndToEndHarness, client: aiohttp.ClientSession, wire_format: str
) -> None:
    body = make_request(messages=[{"role": "user", "content": "the sea and the wind " * 1000}])

    async with client.post(harness.url + PATHS[wire_format], json=body) as response:
        answer = await response.json()

    assert response.status == 400
    assert "context" in json.dumps(answer)
    assert harness.service.status().stats.error_rate == 0


async def test_concurrent_requests_receive_their_own_responses(
    harness: EndToEndHarness, client: aiohttp.ClientSession
) -> None:
    async def send_request(number: int) -> tuple[int, bytes]:
        wire_format = ("openai", "anthropic")[number % 2]
        body = make_request(stream=True, max_tokens=8 + number)
        async with client.post(harness.url + PATHS[wire_format], json=body) as response:
            validator = StreamValidator(MAIN_OPERATION[WireFormat(wire_format)])
            received = await response.read()
            validator.receive_data(received)
            tokens = validator.result().usage.output_tokens
            assert tokens is not None
            return tokens, received

    answers = await asyncio.gather(*(send_request(number) for number in range(4)))

    assert [tokens for tokens, _ in answers] == [8, 9, 10, 11]


async def test_request_above_capacity_waits_for_room(
    recorder: ResponseRecorder, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    backend = BackendConfig(kind="llamacpp", url=recorder.url)
    async with end_to_end_harness(tmp_path, backend, max_concurrent=1) as harness:
        url = harness.url + PATHS["openai"]
        async with client.post(url, json=make_request(stream=True, max_tokens=1500)) as running:
            await running.content.readany()
            waited, _ = await asyncio.gather(client.post(url, json=make_request()), running.read())
        assert waited.status == 200
        assert await waited.read()


async def test_stream_ends_with_an_error_if_the_server_is_killed_and_the_agent_continues(
    tiny_model: Path, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    async with LlamaCppProcess(tiny_model, alias="tiny") as server:
        backend = BackendConfig(kind="llamacpp", url=server.url)
        async with end_to_end_harness(tmp_path, backend, BackendConfig(kind="echo")) as harness:
            url = harness.url + PATHS["openai"]
            async with client.post(
                url, json=make_request(stream=True, max_tokens=2000)
            ) as response:
                await response.content.readany()
                await server.stop(grace_s=0)
                last_bytes = await response.content.read()

            async with client.post(url, json=make_request(model="echo")) as after:
                answer = await after.json()

    assert b"[DONE]" not in last_bytes
    assert b'"error"' in last_bytes
    assert answer["choices"][0]["message"]["content"] == "Tell me about the sea."


async def test_signed_receipt_matches_the_response_that_the_client_received(
    client: aiohttp.ClientSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = CoordinatorSettings(port=0, receipts=ReceiptMode.SIGNED)
    echo = BackendConfig(kind="echo")

    async with end_to_end_harness(tmp_path, echo, settings=settings) as harness:
        with caplog.at_level(logging.INFO):
            body = {**make_request(stream=True), "model": "echo"}
            async with client.post(harness.url + PATHS["openai"], json=body) as response:
                received = await response.read()

    (receipt,) = [vars(one)["fields"] for one in caplog.records if one.message == "receipt"]
    assert receipt["sha256"] == hashlib.sha256(received).hexdigest()
    assert (receipt["input_tokens"], receipt["output_tokens"]) == (5, 5)
