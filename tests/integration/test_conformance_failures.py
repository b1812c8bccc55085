"""How every adapter handles failures and cancellation, as the `Backend` contract requires,
on fake and real servers.
"""

import asyncio
import os
import signal
from contextlib import nullcontext

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
from provider_agent.adapters.servers.http_backend import HttpBackend
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
    parametrize_values,
)
from tests.kit.fakes import FakeServer, Fault, RecordedRequest
from tests.kit.llamacpp import LlamaCppFactory
from tests.kit.sink import CollectingSink


@every_backend
async def test_request_that_is_not_a_json_object_is_a_bad_request(
    adapter: AdapterUnderTest,
) -> None:
    job = msgspec.structs.replace(adapter.job(), request=b"[1, 2")

    with pytest.raises(BadRequest) as caught:
        await adapter.backend.execute(job, CollectingSink())

    assert caught.value.code is ErrorCode.BAD_REQUEST


STATUSES = [
    (500, ErrorCode.BACKEND_ERROR),
    (400, ErrorCode.BAD_REQUEST),
    (401, ErrorCode.AUTH_REJECTED_BY_BACKEND),
    (404, ErrorCode.MODEL_NOT_LOADED),
    (429, ErrorCode.BACKEND_OVERLOADED),
    (503, ErrorCode.BACKEND_OVERLOADED),
]


@parametrize_values("outcome", STATUSES)
async def test_http_status_determines_the_error_code_and_the_body_omits_the_key(
    adapter: AdapterUnderTest, outcome: tuple[int, ErrorCode]
) -> None:
    status, code = outcome
    assert adapter.server is not None
    await adapter.backend.list_models()
    response = adapter.server.error_response(status, f"no, {KEY}", _chat_request_to(adapter.server))
    response.headers["Retry-After"] = "17"
    adapter.server.script_jobs(response)
    sink = CollectingSink()

    with pytest.raises(BadStatus) as caught:
        await adapter.backend.execute(adapter.job(), sink)

    error = caught.value
    assert (error.status, error.code, error.retry_after_s) == (status, code, 17.0)
    assert error.body.startswith(b"{")
    assert KEY.encode() not in error.body
    assert KEY not in str(error)
    assert sink.status is None


def _chat_request_to(server: FakeServer) -> RecordedRequest:
    """Build a chat request, so that the error response has the shape of the OpenAI API."""
    return RecordedRequest("POST", server.prefix + Operation.CHAT.path, {}, {}, b"")


@parametrize_adapters(name for name in FAKES if name != "llamacpp")  # llama.cpp accepts any id
async def test_job_for_an_unknown_model_fails_with_model_not_loaded(
    adapter: AdapterUnderTest,
) -> None:
    job = msgspec.structs.replace(adapter.job(), model_id="no-such-model")

    with pytest.raises(BadStatus) as caught:
        await adapter.backend.execute(job, CollectingSink())

    assert caught.value.code is ErrorCode.MODEL_NOT_LOADED


@parametrize_formats(FAKES)
async def test_stream_that_ends_early_is_a_failure(
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
async def test_job_is_repeated_only_if_its_connection_was_reused(adapter: AdapterUnderTest) -> None:
    assert adapter.server is not None
    assert isinstance(adapter.backend, HttpBackend)
    await adapter.backend.list_models()
    await adapter.backend.execute(adapter.job(), CollectingSink())
    adapter.server.script_jobs(Fault.RESET_BEFORE_HEADERS)
    sink = CollectingSink()

    with nullcontext() if adapter.backend.reuses_connections else pytest.raises(Transport):
        await adapter.backend.execute(adapter.job(), sink)

    assert len(adapter.server.jobs) == 2 + adapter.backend.reuses_connections
    assert sink.data == adapter.server.jobs[-1].sent


@every_fake
async def test_connection_that_breaks_within_a_chunk_is_a_failure(
    adapter: AdapterUnderTest,
) -> None:
    assert adapter.server is not None
    await adapter.backend.list_models()
    adapter.server.script_jobs(Fault.RESET_MID_CHUNK)

    with pytest.raises(Transport):
        await adapter.backend.execute(adapter.job(), CollectingSink())

    assert len(adapter.server.jobs) == 1, "a started response must not be repeated"


@every_fake
@pytest.mark.parametrize(
    "fault",
    [Fault.HANG_BEFORE_HEADERS, Fault.HANG_AFTER_HEADERS, Fault.HANG_AFTER_FIRST_CHUNK],
)
async def test_job_on_a_silent_server_times_out(adapter: AdapterUnderTest, fault: Fault) -> None:
    assert adapter.server is not None
    backend = adapter.with_settings(timeouts=TimeoutSettings(first_byte_s=0.05, silence_s=0.05))
    adapter.server.script_jobs(fault)

    with pytest.raises(BackendTimeout):
        await backend.execute(adapter.job(model=adapter.expected.upstream_id), CollectingSink())


@every_fake
@pytest.mark.parametrize(
    "fault",
    [Fault.HANG_BEFORE_HEADERS, Fault.HANG_AFTER_HEADERS, Fault.HANG_AFTER_FIRST_CHUNK],
)
async def test_cancel_closes_the_upstream_connection(
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
    await recorded.disconnected.wait()


@every_backend
async def test_backend_is_healthy_after_a_cancelled_stream(adapter: AdapterUnderTest) -> None:
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
async def test_real_server_killed_during_a_stream_is_a_failure(
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
    with pytest.raises((Unreachable, Transport)):  # the kernel may still accept one connection
        await backend.execute(adapter.job(wire_format), CollectingSink())
    assert not (await backend.health()).reachable
    await backend.close()


@parametrize_formats(["real-llamacpp"])
async def test_too_long_prompt_on_a_real_server_fails_with_context_length_exceeded(
    adapter: AdapterUnderTest, wire_format: WireFormat
) -> None:
    prompt = [{"role": "user", "content": "far too long " * 20_000}]
    sink = CollectingSink()

    with pytest.raises(BadStatus) as caught:
        await adapter.backend.execute(adapter.job(wire_format, messages=prompt), sink)

    assert caught.value.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED
    assert sink.status is None


@parametrize_formats(["real-llamacpp"], WireFormat.OPENAI)
async def test_status_500_for_an_invalid_request_is_a_bad_request(
    adapter: AdapterUnderTest, wire_format: WireFormat
) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    prompt = [{"role": "user", "content": [{"type": "text", "text": "look"}, image]}]

    with pytest.raises(BadStatus) as caught:
        await adapter.backend.execute(adapter.job(wire_format, messages=prompt), CollectingSink())

    assert caught.value.code is ErrorCode.BAD_REQUEST
    assert not caught.value.retry_here
