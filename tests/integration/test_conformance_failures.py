"""One suite over every backend, real and fake: how failures come out, whatever the server."""

import asyncio
import os
import signal

import msgspec
import pytest

from provider_agent.adapters.base import (
    BackendSettings,
    BackendTimeout,
    BadRequest,
    BadStatus,
    InvalidResponse,
    Operation,
    TimeoutSettings,
    Transport,
    Unreachable,
    WireFormat,
)
from provider_agent.adapters.registry import create_backend
from provider_agent.protocol.errors import ErrorCode
from tests.kit.adapters_under_test import (
    FAKES,
    KEY,
    REAL,
    AdapterUnderTest,
    every_backend,
    every_fake,
    parametrize_adapters,
    parametrize_formats,
)
from tests.kit.fakes import FakeServer, Fault, RecordedRequest
from tests.kit.llamacpp import LlamaCppFactory
from tests.kit.sink import CollectingSink


@every_backend
async def test_a_request_that_is_no_json_object_is_the_clients_fault(
    adapter: AdapterUnderTest,
) -> None:
    job = msgspec.structs.replace(adapter.job(), request=b"[1, 2")

    with pytest.raises(BadRequest) as caught:
        await adapter.backend.execute(job, CollectingSink())

    assert caught.value.code is ErrorCode.BAD_REQUEST


@every_fake
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, ErrorCode.BAD_REQUEST),
        (401, ErrorCode.AUTH_REJECTED_BY_BACKEND),
        (404, ErrorCode.MODEL_NOT_LOADED),
        (429, ErrorCode.BACKEND_OVERLOADED),
        (500, ErrorCode.BACKEND_ERROR),
        (503, ErrorCode.BACKEND_OVERLOADED),
    ],
)
async def test_a_status_becomes_a_code_and_the_body_comes_along_without_the_key(
    adapter: AdapterUnderTest, status: int, code: ErrorCode
) -> None:
    assert adapter.server is not None
    await adapter.backend.list_models()
    refusal = adapter.server.error_response(status, f"no, {KEY}", _exchange_of(adapter.server))
    refusal.headers["Retry-After"] = "17"
    adapter.server.script_jobs(refusal)
    sink = CollectingSink()

    with pytest.raises(BadStatus) as caught:
        await adapter.backend.execute(adapter.job(), sink)

    error = caught.value
    assert (error.status, error.code, error.retry_after_s) == (status, code, 17.0)
    assert error.body.startswith(b"{")
    assert KEY.encode() not in error.body
    assert KEY not in str(error)
    assert sink.status is None


def _exchange_of(server: FakeServer) -> RecordedRequest:
    """A request whose errors have the OpenAI route's shape."""
    return RecordedRequest("POST", server.prefix + Operation.CHAT.path, {}, {}, b"")


@parametrize_adapters(name for name in FAKES if name != "llamacpp")  # which answers to any name
async def test_an_unknown_model_is_not_loaded_here(adapter: AdapterUnderTest) -> None:
    job = msgspec.structs.replace(adapter.job(), model_id="no-such-model")

    with pytest.raises(BadStatus) as caught:
        await adapter.backend.execute(job, CollectingSink())

    assert caught.value.code is ErrorCode.MODEL_NOT_LOADED


@parametrize_formats(FAKES)
async def test_a_stream_that_just_stops_is_a_failure(
    adapter: AdapterUnderTest, wire_format: WireFormat
) -> None:
    assert adapter.server is not None
    await adapter.backend.list_models()
    adapter.server.script_jobs(Fault.STOP_AFTER_FIRST_CHUNK)
    sink = CollectingSink()

    with pytest.raises(InvalidResponse):
        await adapter.backend.execute(adapter.job(wire_format), sink)

    assert bytes(sink.data) == bytes(adapter.server.jobs[0].sent)


@every_fake
async def test_a_connection_that_breaks_before_any_answer_is_tried_once_more(
    adapter: AdapterUnderTest,
) -> None:
    assert adapter.server is not None
    await adapter.backend.list_models()
    adapter.server.script_jobs(Fault.RESET_BEFORE_HEADERS)
    sink = CollectingSink()

    await adapter.backend.execute(adapter.job(), sink)

    assert len(adapter.server.jobs) == 2
    assert sink.data == adapter.server.jobs[1].sent


@every_fake
async def test_a_connection_that_breaks_in_a_chunk_is_a_failure(adapter: AdapterUnderTest) -> None:
    assert adapter.server is not None
    await adapter.backend.list_models()
    adapter.server.script_jobs(Fault.RESET_MID_CHUNK)

    with pytest.raises(Transport):
        await adapter.backend.execute(adapter.job(), CollectingSink())

    assert len(adapter.server.jobs) == 1, "what has begun is never repeated"


@every_fake
@pytest.mark.parametrize(
    "fault",
    [Fault.HANG_BEFORE_HEADERS, Fault.HANG_AFTER_HEADERS, Fault.HANG_AFTER_FIRST_CHUNK],
)
async def test_a_silent_server_runs_out_of_time(adapter: AdapterUnderTest, fault: Fault) -> None:
    assert adapter.server is not None
    impatient = adapter.with_settings(timeouts=TimeoutSettings(first_byte_s=0.05, silence_s=0.05))
    adapter.server.script_jobs(fault)

    with pytest.raises(BackendTimeout):
        await impatient.execute(adapter.job(model=adapter.expected.upstream_id), CollectingSink())


@every_fake
@pytest.mark.parametrize(
    "fault",
    [Fault.HANG_BEFORE_HEADERS, Fault.HANG_AFTER_HEADERS, Fault.HANG_AFTER_FIRST_CHUNK],
)
async def test_cancelling_closes_the_connection_to_the_server(
    adapter: AdapterUnderTest, fault: Fault
) -> None:
    assert adapter.server is not None
    await adapter.backend.list_models()
    adapter.server.script_jobs(fault)
    running = asyncio.create_task(adapter.backend.execute(adapter.job(), CollectingSink()))
    recorded = await adapter.server.wait_for_job()
    if fault is not Fault.HANG_BEFORE_HEADERS:
        await recorded.started.wait()

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    async with asyncio.timeout(5):
        await recorded.disconnected.wait()


@every_backend
async def test_cancelling_a_running_stream_ends_it(adapter: AdapterUnderTest) -> None:
    sink = CollectingSink(pause_at=1)
    job = adapter.job(max_tokens=400)
    await adapter.backend.list_models()
    running = asyncio.create_task(adapter.backend.execute(job, sink))
    await sink.paused.wait()

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await adapter.backend.health()).reachable


# --- the real llama.cpp ---------------------------------------------------------------------------


@pytest.mark.parametrize("wire_format", WireFormat)
async def test_a_real_server_that_dies_in_a_stream_is_told_apart_from_its_end(
    llamacpp_factory: LlamaCppFactory, wire_format: WireFormat
) -> None:
    server = await llamacpp_factory()
    backend = create_backend(BackendSettings(kind="llamacpp", url=server.url))
    adapter, sink = AdapterUnderTest(backend, REAL["real-llamacpp"]), CollectingSink()
    await backend.list_models()
    running = asyncio.create_task(backend.execute(adapter.job(wire_format, max_tokens=1900), sink))
    await sink.first_chunk.wait()

    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)

    with pytest.raises(Transport, match="in the middle") as caught:
        await running
    assert caught.value.code is ErrorCode.BACKEND_UNREACHABLE
    assert sink.data.startswith((b"data: ", b"event: "))
    with pytest.raises(Unreachable):
        await backend.execute(adapter.job(wire_format), CollectingSink())
    assert not (await backend.health()).reachable
    await backend.close()


@parametrize_formats(["real-llamacpp"])
async def test_a_real_server_tells_that_a_prompt_does_not_fit(
    adapter: AdapterUnderTest, wire_format: WireFormat
) -> None:
    prompt = [{"role": "user", "content": "far too long " * 20_000}]
    sink = CollectingSink()

    with pytest.raises(BadStatus) as caught:
        await adapter.backend.execute(adapter.job(wire_format, messages=prompt), sink)

    assert caught.value.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED
    assert sink.status is None


@parametrize_formats(["real-llamacpp"], WireFormat.OPENAI)
async def test_a_real_server_that_calls_a_mistake_its_own_is_not_believed(
    adapter: AdapterUnderTest, wire_format: WireFormat
) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    prompt = [{"role": "user", "content": [{"type": "text", "text": "look"}, image]}]

    with pytest.raises(BadStatus) as caught:
        await adapter.backend.execute(adapter.job(wire_format, messages=prompt), CollectingSink())

    assert caught.value.code is ErrorCode.BAD_REQUEST
    assert not caught.value.retry_here
