"""Failover of a client's request from a fake server with faults to a real llama.cpp server."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from provider_agent.agent.cli.demo.llamacpp_process import LlamaCppProcess
from provider_agent.agent.cli.demo.response_recorder import ResponseRecorder
from provider_agent.agent.config import BackendConfig
from provider_agent.protocol.formats import WireFormat
from tests.kit.end_to_end_harness import EndToEndHarness, end_to_end_harness
from tests.kit.fakes.frames import response_frames
from tests.kit.fakes.openai_compatible import MODEL, FakeOpenAICompatible
from tests.kit.fakes.server import FakeResponse, Fault, json_response, stream_response

PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}

ERROR_FIRST = {
    "openai": b'data: {"error":{"message":"engine failure","code":500}}\n\n',
    "anthropic": b'event: error\ndata: {"type":"error","error":{"type":"api_error"}}\n\n',
}


@pytest.fixture
async def recorder(llamacpp_server: LlamaCppProcess) -> AsyncIterator[ResponseRecorder]:
    async with ResponseRecorder(llamacpp_server.url) as recorder:
        yield recorder


@pytest.fixture
async def first() -> AsyncIterator[FakeOpenAICompatible]:
    """The server that receives jobs first, because it is first in the configuration."""
    async with FakeOpenAICompatible() as server:
        yield server


@pytest.fixture
async def harness(
    first: FakeOpenAICompatible, recorder: ResponseRecorder, tmp_path: Path
) -> AsyncIterator[EndToEndHarness]:
    async with end_to_end_harness(
        tmp_path, faulty_backend(first), real_backend(recorder)
    ) as harness:
        yield harness


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def faulty_backend(server: FakeOpenAICompatible) -> BackendConfig:
    formats = (WireFormat.OPENAI, WireFormat.ANTHROPIC)
    return BackendConfig(kind=server.kind, url=server.url, alias={"tiny": MODEL}, formats=formats)


def real_backend(recorder: ResponseRecorder) -> BackendConfig:
    return BackendConfig(kind="llamacpp", url=recorder.url)


def make_request(**fields: Any) -> dict[str, Any]:
    message = {"role": "user", "content": "Tell me about the sea."}
    return {"model": "tiny", "max_tokens": 16, "messages": [message], **fields}


def failures(wire_format: str) -> dict[str, list[Fault | FakeResponse]]:
    unavailable = FakeResponse((b'{"error":{"message":"loading"}}',), 503)
    broken = FakeResponse((b'{"error":{"message":"broken"}}',), 500)
    return {
        "500": [broken],
        "503": [unavailable],
        "error first": [stream_response([ERROR_FIRST[wire_format]])],
        "comment, then error": [stream_response([b": wait\n\n", ERROR_FIRST[wire_format]])],
        "empty stream": [stream_response([])],
        "only a comment": [stream_response([b": wait\n\n"])],
        "reset": [Fault.RESET_BEFORE_HEADERS],
    }


@pytest.mark.parametrize("wire_format", ["openai", "anthropic"])
@pytest.mark.parametrize("failure", sorted(failures("openai")))
async def test_failure_before_the_first_output_fails_over(
    harness: EndToEndHarness,
    client: aiohttp.ClientSession,
    first: FakeOpenAICompatible,
    recorder: ResponseRecorder,
    wire_format: str,
    failure: str,
) -> None:
    first.script_jobs(*failures(wire_format)[failure])

    async with client.post(
        harness.url + PATHS[wire_format], json=make_request(stream=True)
    ) as response:
        relayed = await response.read()

    assert response.status == 200
    assert len(first.jobs) == len(failures(wire_format)[failure])
    assert len(relayed) > 100
    assert relayed == recorder.last_body
    stats = harness.service.status().stats
    assert (stats.error_rate, harness.service.jobs.in_flight) == (0.0, 0)


async def test_responses_api_stream_that_ends_before_its_output_fails_over(
    harness: EndToEndHarness,
    client: aiohttp.ClientSession,
    first: FakeOpenAICompatible,
    recorder: ResponseRecorder,
) -> None:
    # vLLM sends `response.created` at once, while the request is still queued. In an earlier
    # version this event counted as output.
    first.script_jobs(stream_response(response_frames(MODEL)[:2]))
    request = {"model": "tiny", "max_output_tokens": 16, "input": "the sea", "stream": True}

    async with client.post(f"{harness.url}/v1/responses", json=request) as response:
        relayed = await response.read()

    assert response.status == 200
    assert len(first.jobs) == 1
    assert b"response.completed" in relayed
    assert relayed == recorder.last_body


@pytest.mark.parametrize("wire_format", ["openai", "anthropic"])
async def test_json_error_with_status_200_fails_over(
    harness: EndToEndHarness,
    client: aiohttp.ClientSession,
    first: FakeOpenAICompatible,
    recorder: ResponseRecorder,
    wire_format: str,
) -> None:
    first.script_jobs(json_response({"error": {"message": "200 with an error", "code": 500}}))

    async with client.post(harness.url + PATHS[wire_format], json=make_request()) as response:
        relayed = await response.read()

    assert (response.status, response.content_type) == (200, "application/json")
    assert relayed == recorder.last_body


async def test_job_for_a_stopped_server_fails_over(
    recorder: ResponseRecorder, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(FakeOpenAICompatible())
        async with end_to_end_harness(
            tmp_path, faulty_backend(server), real_backend(recorder)
        ) as harness:
            await stack.aclose()

            for _ in range(2):
                url = harness.url + PATHS["openai"]
                async with client.post(url, json=make_request(stream=True)) as response:
                    assert await response.read() == recorder.last_body
                assert response.status == 200


async def test_failure_after_the_first_output_does_not_fail_over(
    harness: EndToEndHarness,
    client: aiohttp.ClientSession,
    first: FakeOpenAICompatible,
    recorder: ResponseRecorder,
) -> None:
    first.script_jobs(Fault.STOP_AFTER_FIRST_CHUNK)
    recorder.last_body = b""

    url = harness.url + PATHS["openai"]
    async with client.post(url, json=make_request(stream=True)) as response:
        relayed = await response.read()

    assert relayed.startswith(bytes(first.jobs[0].sent[:20]))
    assert b'"error"' in relayed
    assert b"[DONE]" not in relayed
    assert recorder.last_body == b"", "the other server must receive no job"


async def test_client_connection_is_aborted_when_the_server_fails_within_an_event(
    harness: EndToEndHarness,
    client: aiohttp.ClientSession,
    first: FakeOpenAICompatible,
    recorder: ResponseRecorder,
) -> None:
    first.script_jobs(Fault.RESET_MID_CHUNK)
    recorder.last_body = b""

    url = harness.url + PATHS["openai"]
    async with client.post(url, json=make_request(stream=True)) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()

    assert recorder.last_body == b"", "the other server must receive no job"


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_client_error_does_not_fail_over(
    harness: EndToEndHarness,
    client: aiohttp.ClientSession,
    first: FakeOpenAICompatible,
    recorder: ResponseRecorder,
    status: int,
) -> None:
    first.script_jobs(FakeResponse((b'{"error":{"message":"no such parameter"}}',), status))
    recorder.last_body = b""

    async with client.post(
        harness.url + PATHS["openai"], json=make_request(stream=True)
    ) as response:
        answer = await response.json()

    assert 400 <= response.status < 500
    assert "no such parameter" in json.dumps(answer)
    assert recorder.last_body == b""


async def test_last_error_is_returned_if_all_backends_fail(
    tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    async with (
        FakeOpenAICompatible() as one,
        FakeOpenAICompatible() as two,
        end_to_end_harness(tmp_path, faulty_backend(one), faulty_backend(two)) as harness,
    ):
        one.script_jobs(FakeResponse((b'{"error":{"message":"one"}}',), 500))
        busy = FakeResponse((b'{"error":{"message":"two"}}',), 429, headers={"Retry-After": "7"})
        two.script_jobs(busy)
        async with client.post(
            harness.url + PATHS["openai"], json=make_request(stream=True)
        ) as response:
            answer = await response.json()

    assert response.status == 503
    assert answer["error"]["code"] == "backend_overloaded"
    assert response.headers["Retry-After"] == "7"
    assert (len(one.jobs), len(two.jobs)) == (1, 1)
