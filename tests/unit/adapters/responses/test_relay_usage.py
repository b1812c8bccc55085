"""The usage that the relay reports for failed and cancelled jobs."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from provider_agent.adapters.base import (
    BackendSettings,
    ErrorInStream,
    InvalidResponse,
    ResponseOutcome,
    Usage,
)
from provider_agent.adapters.servers.ollama import OllamaBackend
from provider_agent.adapters.servers.openai_compatible import OpenAICompatibleBackend
from provider_agent.protocol.formats import Operation
from tests.kit.fakes import (
    FakeOllama,
    FakeOpenAICompatible,
    FakeResponse,
    json_response,
    stream_response,
)
from tests.kit.fakes.frames import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    chat_chunk,
    chat_frames,
    sse,
)
from tests.kit.fakes.openai_compatible import MODEL
from tests.kit.raw_server import ARRIVES_S, AfterReply, RawServer, chunked
from tests.kit.raw_server import stream as raw_stream
from tests.kit.sink import CollectingSink
from tests.kit.virtual_time import in_virtual_time
from tests.unit.adapters.conftest import Connect, a_job


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenAICompatible]:
    async with FakeOpenAICompatible() as running:
        yield running


async def test_lower_bounds_of_a_cancelled_stream_count_its_deltas_and_the_words_of_the_prompt(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    deltas = [chat_chunk(MODEL, {"content": "a"})] * 500
    server.script_jobs(stream_response([*deltas, *chat_frames(MODEL, usage=False)]))
    sink = CollectingSink(pause_at=len(b"".join(deltas)))
    running = asyncio.create_task(connect(server).execute(a_job(MODEL), sink))
    await sink.paused.wait()

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert sink.outcome is not None
    assert sink.outcome.least_input_tokens == 1
    assert 450 <= sink.outcome.least_output_tokens <= 510


@in_virtual_time
async def test_usage_is_read_from_the_rest_that_a_stalled_consumer_does_not_read() -> None:
    first, *rest = chat_frames(MODEL, usage=True)
    reply = raw_stream([first], end=b"", late=b"".join(map(chunked, rest)), then=AfterReply.HANG)
    async with RawServer([reply]) as server:
        backend = OpenAICompatibleBackend(BackendSettings(kind="vllm", url=server.url))
        sink = CollectingSink(pause_at=1)
        running = asyncio.create_task(backend.execute(a_job(MODEL), sink))
        await sink.paused.wait()
        await asyncio.sleep(2 * ARRIVES_S)

        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await backend.close()

    assert sink.data == first
    assert sink.usage == Usage(INPUT_TOKENS, OUTPUT_TOKENS)


@pytest.mark.parametrize(
    "response",
    [
        stream_response([sse({"error": {"code": 500}, "usage": {"prompt_tokens": 905_000}})]),
        json_response({"error": "no", "usage": {"prompt_tokens": 905_000}}),
    ],
)
async def test_usage_of_a_response_that_fails_before_any_byte_is_relayed_is_reported(
    server: FakeOpenAICompatible, connect: Connect, response: FakeResponse
) -> None:
    server.script_jobs(response)
    sink = CollectingSink()

    with pytest.raises(ErrorInStream):
        await connect(server).execute(a_job(MODEL), sink)

    assert sink.status is None
    assert sink.outcome == ResponseOutcome(Usage(905_000))


async def test_usage_of_zero_in_an_interrupted_stream_counts_as_unknown() -> None:
    async with FakeOllama() as ollama:
        ollama.script_jobs(FakeOllama.interrupted_completions())
        backend = OllamaBackend(BackendSettings(kind="ollama", url=ollama.url))
        sink = CollectingSink()
        job = replace(a_job("m"), operation=Operation.COMPLETIONS.value, request=b'{"prompt":"x"}')
        with pytest.raises(InvalidResponse):
            await backend.execute(job, sink)
        await backend.close()

    assert sink.outcome is not None
    assert sink.outcome.usage == Usage()
    assert (sink.outcome.least_input_tokens, sink.outcome.least_output_tokens) == (1, 99)
