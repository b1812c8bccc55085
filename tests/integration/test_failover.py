"""A job whose first server fails is answered by the next: over HTTP, through the reference
coordinator and the agent, from a misbehaving server to a real llama.cpp server."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from provider_agent.agent.cli.demo.llamacpp_process import LlamaCppProcess
from provider_agent.agent.cli.demo.tap import Tap
from provider_agent.agent.config import BackendConfig
from provider_agent.protocol.formats import WireFormat
from tests.kit.end_to_end_harness import EndToEndHarness, end_to_end_harness
from tests.kit.fakes.openai_compatible import MODEL, FakeOpenAICompatible
from tests.kit.fakes.server import FakeResponse, Fault, json_response, stream_response
from tests.kit.llamacpp import LlamaCppFactory

PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}

ERROR_FIRST = {
    "openai": b'data: {"error":{"message":"the engine is dead","code":500}}\n\n',
    "anthropic": b'event: error\ndata: {"type":"error","error":{"type":"api_error"}}\n\n',
}


@pytest.fixture
async def tap(llamacpp_server: LlamaCppProcess) -> AsyncIterator[Tap]:
    async with Tap(llamacpp_server.url) as tap:
        yield tap


@pytest.fixture
async def first() -> AsyncIterator[FakeOpenAICompatible]:
    """The server that is asked first, because it comes first in the configuration."""
    async with FakeOpenAICompatible() as server:
        yield server


@pytest.fixture
async def harness(
    first: FakeOpenAICompatible, tap: Tap, tmp_path: Path
) -> AsyncIterator[EndToEndHarness]:
    async with end_to_end_harness(tmp_path, faulty(first), real(tap)) as harness:
        yield harness


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def faulty(server: FakeOpenAICompatible) -> BackendConfig:
    formats = (WireFormat.OPENAI, WireFormat.ANTHROPIC)
    return BackendConfig(kind=server.kind, url=server.url, alias={"tiny": MODEL}, formats=formats)


def real(tap: Tap) -> BackendConfig:
    return BackendConfig(kind="llamacpp", url=tap.url)


def request(**more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": "Tell me about the sea."}
    return {"model": "tiny", "max_tokens": 16, "messages": [message], **more}


def failures(wire_format: str) -> dict[str, list[Fault | FakeResponse]]:
    unavailable = FakeResponse((b'{"error":{"message":"loading"}}',), 503)
    broken = FakeResponse((b'{"error":{"message":"broken"}}',), 500)
    return {
        "500": [broken],
        "503": [unavailable],
        "error first": [stream_response([ERROR_FIRST[wire_format]])],
        "comment, then error": [stream_response([b": wait\n\n", ERROR_FIRST[wire_format]])],
        "empty stream": [stream_response([])],
        "nothing but a comment": [stream_response([b": wait\n\n"])],
        # An adapter asks once more by itself when a connection is closed without an answer.
        "reset": [Fault.RESET_BEFORE_HEADERS, Fault.RESET_BEFORE_HEADERS],
    }


@pytest.mark.parametrize("wire_format", ["openai", "anthropic"])
@pytest.mark.parametrize("failure", sorted(failures("openai")))
async def test_what_fails_before_its_first_byte_is_answered_by_the_next_byte_for_byte(
    harness: EndToEndHarness,
    client: aiohttp.ClientSession,
    first: FakeOpenAICompatible,
    tap: Tap,
    wire_format: str,
    failure: str,
) -> None:
    first.script_jobs(*failures(wire_format)[failure])

    async with client.post(harness.url + PATHS[wire_format], json=request(stream=True)) as response:
        relayed = await response.read()

    assert response.status == 200
    assert len(first.jobs) == len(failures(wire_format)[failure])
    assert len(relayed) > 100
    assert relayed == tap.last_body
    figures = harness.service.status().stats
    assert (figures.error_rate, harness.service.jobs.in_flight) == (0.0, 0)


@pytest.mark.parametrize("wire_format", ["openai", "anthropic"])
async def test_an_answer_in_one_piece_moves_on_too(
    harness: EndToEndHarness,
    client: aiohttp.ClientSession,
    first: FakeOpenAICompatible,
    tap: Tap,
    wire_format: str,
) -> None:
    first.script_jobs(json_response({"error": {"message": "200 with an error", "code": 500}}))

    async with client.post(harness.url + PATHS[wire_format], json=request()) as response:
        relayed = await response.read()

    assert (response.status, response.content_type) == (200, "application/json")
    assert relayed == tap.last_body


async def test_a_server_that_was_stopped_is_replaced(
    tap: Tap, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    async with AsyncExitStack() as life:
        server = await life.enter_async_context(FakeOpenAICompatible())
        async with end_to_end_harness(tmp_path, faulty(server), real(tap)) as harness:
            await life.aclose()

            for _ in range(2):
                url = harness.url + PATHS["openai"]
                async with client.post(url, json=request(stream=True)) as response:
                    assert await response.read() == tap.last_body
                assert response.status == 200


async def test_a_killed_llamacpp_is_replaced_by_another(
    llamacpp_factory: LlamaCppFactory, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    doomed, other = await llamacpp_factory(), await llamacpp_factory()
    async with Tap(other.url) as tap:
        configs = [BackendConfig(kind="llamacpp", url=url) for url in (doomed.url, tap.url)]
        async with end_to_end_harness(tmp_path, *configs) as harness:
            (offer, *_) = harness.service.offers()
            await doomed.stop(grace_s=0)

            url = harness.url + PATHS["openai"]
            body = request(stream=True, model=offer.model_id)
            async with client.post(url, json=body) as response:
                relayed = await response.read()

    assert response.status == 200
    assert relayed == tap.last_body


@pytest.mark.parametrize("fault", [Fault.RESET_MID_CHUNK, Fault.STOP_AFTER_FIRST_CHUNK])
async def test_what_has_begun_is_never_repeated(
    harness: EndToEndHarness,
    client: aiohttp.ClientSession,
    first: FakeOpenAICompatible,
    tap: Tap,
    fault: Fault,
) -> None:
    first.script_jobs(fault)
    tap.last_body = b""

    url = harness.url + PATHS["openai"]
    async with client.post(url, json=request(stream=True)) as response:
        relayed = await response.read()

    assert relayed.startswith(bytes(first.jobs[0].sent[:20]))
    assert b'"error"' in relayed
    assert b"[DONE]" not in relayed
    assert tap.last_body == b"", "nobody else was asked"


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_clients_mistake_is_not_carried_to_the_next(
    harness: EndToEndHarness,
    client: aiohttp.ClientSession,
    first: FakeOpenAICompatible,
    tap: Tap,
    status: int,
) -> None:
    first.script_jobs(FakeResponse((b'{"error":{"message":"no such parameter"}}',), status))
    tap.last_body = b""

    async with client.post(harness.url + PATHS["openai"], json=request(stream=True)) as response:
        answer = await response.json()

    assert 400 <= response.status < 500
    assert "no such parameter" in json.dumps(answer)
    assert tap.last_body == b""


async def test_when_all_fail_the_last_one_is_told(
    tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    async with (
        FakeOpenAICompatible() as one,
        FakeOpenAICompatible() as two,
        end_to_end_harness(tmp_path, faulty(one), faulty(two)) as harness,
    ):
        one.script_jobs(FakeResponse((b'{"error":{"message":"one"}}',), 500))
        busy = FakeResponse((b'{"error":{"message":"two"}}',), 429, headers={"Retry-After": "7"})
        two.script_jobs(busy)
        async with client.post(
            harness.url + PATHS["openai"], json=request(stream=True)
        ) as response:
            answer = await response.json()

    assert response.status in (429, 503)
    assert answer["error"]["code"] == "backend_overloaded"
    assert response.headers["Retry-After"] == "7"
    assert (len(one.jobs), len(two.jobs)) == (1, 1)
