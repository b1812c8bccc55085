"""How every adapter runs jobs, as the `Backend` contract requires, on fake and real servers."""

import asyncio
import re

import aiohttp
import msgspec
import pytest

from provider_agent.adapters.base import BadStatus, Operation, WireFormat
from provider_agent.agent.cli.demo.response_recorder import ResponseRecorder
from provider_agent.protocol.formats import MAIN_OPERATION
from tests.kit.adapters_under_test import (
    ADAPTERS,
    ANTHROPIC,
    EMBEDDINGS,
    FAKES,
    KEY,
    REAL,
    AdapterUnderTest,
    every_backend,
    every_fake,
    parametrize_formats,
    parametrize_operations,
)
from tests.kit.sink import CollectingSink


async def run_job(
    adapter: AdapterUnderTest, wire_format: WireFormat, *, stream: bool
) -> tuple[CollectingSink, tuple[int | None, int | None]]:
    """Run a job and return its response and usage."""
    sink = CollectingSink()
    await adapter.backend.list_models()
    await adapter.backend.execute(adapter.job(wire_format, stream=stream), sink)
    assert sink.outcome is not None
    assert (sink.outcome.error_relayed, sink.outcome.between_events) == (False, stream)
    return sink, (sink.usage.input_tokens, sink.usage.output_tokens)


@parametrize_formats(ADAPTERS)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_job_relays_a_complete_response_with_usage(
    adapter: AdapterUnderTest, wire_format: WireFormat, stream: bool
) -> None:
    sink, usage = await run_job(adapter, wire_format, stream=stream)

    assert sink.status == 200
    content_type = "text/event-stream" if stream else "application/json"
    assert sink.content_type.startswith(content_type)
    end = b'"type":"message_stop"}\n\n' if wire_format is ANTHROPIC else b"data: [DONE]\n\n"
    assert not stream or sink.data.endswith(end)
    assert stream or isinstance(msgspec.json.decode(sink.data), dict)
    if adapter.expected.usage:
        assert usage == adapter.expected.usage
    assert all(usage)


@parametrize_operations(ADAPTERS)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_every_supported_operation_succeeds(
    adapter: AdapterUnderTest, operation: Operation, stream: bool
) -> None:
    sink = CollectingSink()
    await adapter.backend.list_models()

    await adapter.backend.execute(adapter.job_for(operation, stream=stream), sink)

    assert sink.status == 200
    assert sink.data
    if adapter.server is not None:
        assert sink.data == adapter.server.jobs[0].sent
    if operation is not Operation.COUNT_TOKENS:
        assert sink.usage.input_tokens
    if operation not in (Operation.COUNT_TOKENS, EMBEDDINGS):
        assert sink.usage.output_tokens


@parametrize_formats(FAKES)
@pytest.mark.parametrize("chunk_bytes", [1, 7])
async def test_bytes_and_usage_do_not_depend_on_chunk_boundaries(
    adapter: AdapterUnderTest, wire_format: WireFormat, chunk_bytes: int
) -> None:
    assert adapter.server is not None
    adapter.server.chunk_bytes = chunk_bytes

    sink, usage = await run_job(adapter, wire_format, stream=True)

    assert sink.data == adapter.server.jobs[0].sent
    assert usage == adapter.expected.usage


@parametrize_formats(REAL)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_response_of_a_real_server_is_relayed_byte_for_byte(
    adapter: AdapterUnderTest, wire_format: WireFormat, stream: bool
) -> None:
    async with ResponseRecorder(adapter.backend.settings.url) as recorder:
        backend = adapter.with_settings(url=recorder.url)
        sink = CollectingSink()
        job = adapter.job(wire_format, stream=stream, max_tokens=100)

        await backend.execute(job, sink)

    assert len(sink.data) > 100
    assert sink.data == recorder.last_body


@parametrize_formats(["real-llamacpp"])  # vLLM does not always split a text into the same events
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_response_equals_the_response_to_a_direct_request(
    adapter: AdapterUnderTest, wire_format: WireFormat, stream: bool
) -> None:
    job = adapter.job(
        wire_format,
        stream=stream,
        max_tokens=20,
        temperature=0,
        seed=1,
        cache_prompt=False,
        **({"stream_options": {"include_usage": True}} if stream else {}),
    )
    sink = CollectingSink()

    await adapter.backend.execute(job, sink)

    settings = adapter.backend.settings
    url = settings.url + MAIN_OPERATION[wire_format].path
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {settings.api_key}"}
    async with (
        aiohttp.ClientSession() as client,
        client.post(url, data=job.request, headers=headers) as response,
    ):
        direct = await response.read()
    assert len(direct) > 100
    assert _without_ids_and_times(bytes(sink.data)) == _without_ids_and_times(direct)


def _without_ids_and_times(data: bytes) -> bytes:
    """Remove the fields that differ between two responses with the same text."""
    data = re.sub(rb'"id":"[^"]+"', b'"id":""', data)
    data = re.sub(rb'"created":\d+', b'"created":0', data)
    return re.sub(rb'"timings":\{[^}]*\}', b'"timings":{}', data)


@parametrize_formats(FAKES, supported=False)
async def test_job_in_an_unsupported_format_fails_with_status_404(
    adapter: AdapterUnderTest, wire_format: WireFormat
) -> None:
    sink = CollectingSink()

    with pytest.raises(BadStatus) as caught:
        await adapter.backend.execute(adapter.job(wire_format), sink)

    assert caught.value.status == 404
    assert sink.data == b""


@every_fake
async def test_request_is_unchanged_except_for_model_id_and_added_fields(
    adapter: AdapterUnderTest,
) -> None:
    assert adapter.server is not None
    await adapter.backend.list_models()
    job = adapter.job(stream=False, temperature=0.25, logit_bias={"7": 2.50})

    await adapter.backend.execute(job, CollectingSink())

    sent = adapter.server.jobs[0].json
    requested = msgspec.json.decode(job.request, type=dict[str, object])
    added: dict[str, dict[str, object]] = {
        "venice": {"venice_parameters": {"include_venice_system_prompt": False}},
        "openrouter": {"provider": {"max_price": {"prompt": 0.59059, "completion": 0.79079}}},
    }
    expected = {**requested, "model": adapter.expected.upstream_id}
    assert sent == expected | added.get(adapter.backend.kind, {})


@every_fake
async def test_usage_is_requested_only_from_servers_that_require_it(
    adapter: AdapterUnderTest,
) -> None:
    assert adapter.server is not None
    await adapter.backend.list_models()
    for stream in (True, False):
        await adapter.backend.execute(adapter.job(stream=stream), CollectingSink())

    streamed, whole = adapter.server.jobs
    assert streamed.asks_for_usage is adapter.expected.asks_for_usage
    assert "stream_options" not in whole.json


@parametrize_formats(FAKES, ANTHROPIC)
async def test_messages_requests_contain_no_openai_fields(
    adapter: AdapterUnderTest, wire_format: WireFormat
) -> None:
    assert adapter.server is not None
    await adapter.backend.list_models()

    await adapter.backend.execute(adapter.job(wire_format), CollectingSink())

    assert "stream_options" not in adapter.server.jobs[0].json


@every_fake
async def test_request_contains_only_the_operators_key_and_known_headers(
    adapter: AdapterUnderTest,
) -> None:
    assert adapter.server is not None

    await adapter.backend.list_models()
    await adapter.backend.execute(adapter.job(), CollectingSink())

    headers = adapter.server.jobs[0].headers
    headers.pop("connection", None)
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["accept-encoding"] == "identity"
    assert set(headers) == {
        "host",
        "user-agent",
        "content-type",
        "content-length",
        "accept",
        "accept-encoding",
        "authorization",
        "x-request-id",
    }


@every_backend
async def test_full_window_pauses_the_source_and_loses_no_bytes(adapter: AdapterUnderTest) -> None:
    sink = CollectingSink(pause_at=1)
    job = adapter.job(max_tokens=50)
    await adapter.backend.list_models()
    may_continue = asyncio.Event()
    if adapter.server is not None:
        adapter.server.wait_after_first_chunk = may_continue
    running = asyncio.create_task(adapter.backend.execute(job, sink))
    await sink.paused.wait()
    before = len(sink.data)
    may_continue.set()
    for _ in range(20):  # no event shows that bytes do not arrive, so yield a few times
        await asyncio.sleep(0)
    assert len(sink.data) == before
    assert not running.done()

    sink.resume()
    await running

    assert sink.data.endswith(b"data: [DONE]\n\n")
    if adapter.server is not None:
        assert sink.data == adapter.server.jobs[0].sent
