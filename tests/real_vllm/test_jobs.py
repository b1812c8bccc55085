"""Jobs on a real vLLM: rejected requests, load and cancellation."""

import asyncio

import aiohttp
import msgspec
import pytest

from provider_agent.adapters.base import BadStatus, Operation, WireFormat
from provider_agent.adapters.responses.status_codes import code_for_status
from provider_agent.protocol.errors import ErrorCode
from tests.kit.adapters_under_test import ANTHROPIC, OPENAI, AdapterUnderTest, parametrize_adapters
from tests.kit.sink import CollectingSink
from tests.real_vllm.gauges import tokens_generated, wait_for_load

pytestmark = parametrize_adapters(["real-vllm"])

in_both_formats = pytest.mark.parametrize("wire_format", [OPENAI, ANTHROPIC])


async def window_of(adapter: AdapterUnderTest) -> int:
    (model,) = await adapter.backend.list_models()
    assert model.context_window is not None
    return model.context_window


# --- rejected requests ----------------------------------------------------------------------------


@in_both_formats
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_too_long_prompt_is_reported_as_context_length_exceeded(
    adapter: AdapterUnderTest, wire_format: WireFormat, stream: bool
) -> None:
    messages = [{"role": "user", "content": "one two " * await window_of(adapter)}]
    job = adapter.job(wire_format, stream=stream, messages=messages)
    sink = CollectingSink()

    with pytest.raises(BadStatus) as caught:
        await adapter.backend.execute(job, sink)

    assert caught.value.status == 400
    assert caught.value.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED
    assert sink.status is None


@in_both_formats
async def test_unknown_model_is_reported_as_not_loaded(
    adapter: AdapterUnderTest, wire_format: WireFormat
) -> None:
    job = msgspec.structs.replace(adapter.job(wire_format), model_id="no-such-model")

    with pytest.raises(BadStatus) as caught:
        await adapter.backend.execute(job, CollectingSink())

    assert caught.value.code is ErrorCode.MODEL_NOT_LOADED


CUSTOM_TOOL = {"type": "custom", "custom": {"name": "f"}}

INVALID_REQUESTS: dict[str, tuple[Operation, dict[str, object], int]] = {
    "structured_outputs of the wrong type": (Operation.CHAT, {"structured_outputs": 7}, 500),
    "unknown tool type with a named choice": (
        Operation.CHAT,
        {
            "tools": [CUSTOM_TOOL],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
        },
        500,
    ),
    "unknown previous response": (Operation.RESPONSES, {"previous_response_id": "x"}, 404),
}


@pytest.mark.parametrize("name", INVALID_REQUESTS)
async def test_invalid_request_is_the_clients_error_whatever_its_status(
    adapter: AdapterUnderTest, name: str
) -> None:
    operation, fields, status = INVALID_REQUESTS[name]
    (model,) = await adapter.backend.list_models()
    prompt = {"messages": [{"role": "user", "content": "hi"}], "input": "hi", "max_tokens": 2}
    url = adapter.backend.settings.url + operation.path

    async with (
        aiohttp.ClientSession() as client,
        client.post(
            url,
            json={"model": model.upstream_id, **prompt, **fields},
            headers={"Authorization": f"Bearer {adapter.backend.settings.api_key}"},
        ) as response,
    ):
        body = await response.read()

    assert response.status == status
    assert code_for_status(status, body) is ErrorCode.BAD_REQUEST


# --- load and cancellation ------------------------------------------------------------------------


@in_both_formats
async def test_a_stream_counts_as_load_and_cancelling_it_frees_the_engine(
    adapter: AdapterUnderTest, wire_format: WireFormat
) -> None:
    max_tokens = await window_of(adapter) - 200
    await wait_for_load(adapter.backend, lambda load: load.running == 0)
    before = await tokens_generated(adapter.backend.settings.url)
    sink = CollectingSink()
    job = adapter.job(wire_format, max_tokens=max_tokens)
    streaming = asyncio.create_task(adapter.backend.execute(job, sink))
    await sink.first_chunk.wait()

    load = await wait_for_load(adapter.backend, lambda load: load.running == 1)
    streaming.cancel()

    with pytest.raises(asyncio.CancelledError):
        await streaming
    await wait_for_load(adapter.backend, lambda load: load.running == 0)
    generated = await tokens_generated(adapter.backend.settings.url) - before
    assert generated < max_tokens, "the job completed before it was cancelled"
    assert load.waiting == 0
    assert load.cache_used is not None
    assert 0 < load.cache_used < 1


@in_both_formats
async def test_cancelled_stream_counts_the_tokens_that_it_relayed(
    adapter: AdapterUnderTest, wire_format: WireFormat
) -> None:
    sink = CollectingSink(pause_at=20_000)
    job = adapter.job(wire_format, max_tokens=await window_of(adapter) - 200)
    before = await tokens_generated(adapter.backend.settings.url)
    streaming = asyncio.create_task(adapter.backend.execute(job, sink))
    await sink.paused.wait()

    streaming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await streaming

    await wait_for_load(adapter.backend, lambda load: load.running == 0)
    generated = await tokens_generated(adapter.backend.settings.url) - before
    assert sink.outcome is not None
    assert 50 <= sink.outcome.least_output_tokens <= generated
    assert sink.usage.input_tokens or sink.outcome.least_input_tokens
