"""A real vLLM with waiting requests, a hung engine and a failed engine.

The tests use their own server.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from provider_agent.adapters.base import (
    Backend,
    BackendError,
    BackendSettings,
    BackendTimeout,
    Job,
    Operation,
    TimeoutSettings,
)
from provider_agent.adapters.registry import create_backend
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.backends.discovery import Discovery
from provider_agent.protocol.errors import ErrorCode
from tests.kit.sink import CollectingSink
from tests.real_vllm.conftest import VENV
from tests.real_vllm.gauges import wait_for_load
from tests.real_vllm.server import MODEL, PARALLEL, START_S, VllmServer
from tests.real_vllm.tiny_model import write_tiny_model

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(START_S + 60)]

RESPONSE_TOKENS = 12_000
LONG_CHAT = {"max_tokens": RESPONSE_TOKENS, "messages": [{"role": "user", "content": "a word"}]}
STREAMS: dict[Operation, dict[str, object]] = {
    Operation.CHAT: LONG_CHAT,
    Operation.MESSAGES: LONG_CHAT,
    Operation.COMPLETIONS: {"prompt": "a word", "max_tokens": RESPONSE_TOKENS},
    Operation.RESPONSES: {"input": "a word", "max_output_tokens": RESPONSE_TOKENS},
}
assert len(STREAMS) <= PARALLEL, "no stream may be queued"
QUEUED = 2
SILENCE_S = 5.0
"""Longer than the time between two tokens on a busy machine."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmServer]:
    folder = tmp_path_factory.mktemp("vllm")
    write_tiny_model(folder / "model")
    async with VllmServer(Path(VENV), folder / "model", folder / "vllm.log") as running:
        yield running


@pytest.fixture
async def backend(server: VllmServer) -> AsyncIterator[Backend]:
    made = create_backend(BackendSettings(kind="vllm", url=server.url))
    yield made
    await made.close()


def stream_job(operation: Operation) -> Job:
    return Job(
        job_id=os.urandom(16),
        model_id=MODEL,
        format=operation.wire_format,
        request=msgspec.json.encode({"model": MODEL, "stream": True, **STREAMS[operation]}),
        deadline_ms=120_000,
        operation=operation,
    )


async def test_queued_jobs_start_no_response_at_the_sink_and_count_as_waiting(
    backend: Backend,
) -> None:
    # vLLM sends status and headers at once, also for a request that has to wait. The adapter starts
    # the response only with the first output.
    await backend.list_models()
    sinks = [CollectingSink() for _ in range(PARALLEL + QUEUED)]
    jobs = []
    for sink in sinks[:PARALLEL]:
        jobs.append(asyncio.create_task(backend.execute(stream_job(Operation.CHAT), sink)))
        await sink.first_chunk.wait()
    jobs += [
        asyncio.create_task(backend.execute(stream_job(Operation.CHAT), sink))
        for sink in sinks[PARALLEL:]
    ]

    load = await wait_for_load(backend, lambda load: load.waiting == QUEUED)
    started = [sink.status is not None for sink in sinks]

    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    assert load.running == PARALLEL
    assert started == [True] * PARALLEL + [False] * QUEUED
    await wait_for_load(backend, lambda load: load.running == load.waiting == 0)


async def test_hung_engine_times_out_and_can_recover(server: VllmServer, backend: Backend) -> None:
    timeouts = TimeoutSettings(silence_s=SILENCE_S)
    impatient_backend = create_backend(msgspec.structs.replace(backend.settings, timeouts=timeouts))
    await impatient_backend.list_models()
    sink = CollectingSink()
    job = asyncio.create_task(impatient_backend.execute(stream_job(Operation.CHAT), sink))
    await sink.first_chunk.wait()
    os.kill(server.engine_pid, signal.SIGSTOP)
    try:
        with pytest.raises(BackendTimeout):
            await job
        assert (await backend.health()).reachable, "vLLM itself does not notice"
    finally:
        os.kill(server.engine_pid, signal.SIGCONT)
        await impatient_backend.close()

    sink = CollectingSink()
    job = asyncio.create_task(backend.execute(stream_job(Operation.CHAT), sink))
    await sink.first_chunk.wait()
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job


async def test_hung_engine_is_down_until_it_continues(server: VllmServer) -> None:
    timeouts = TimeoutSettings(stall_s=SILENCE_S)
    backend = create_backend(BackendSettings(kind="vllm", url=server.url, timeouts=timeouts))
    changed = asyncio.Event()
    discovery = Discovery(Backends([backend], {}, []), changed.set)
    running = asyncio.create_task(discovery.run())
    await changed.wait()  # after the first check, which also reads the engine's progress metrics
    started, waiting = CollectingSink(), CollectingSink()
    attempts = [discovery.start(discovery.routes(MODEL)[0]) for _ in range(2)]
    stream = asyncio.create_task(backend.execute(stream_job(Operation.CHAT), started))
    await started.first_chunk.wait()
    os.kill(server.engine_pid, signal.SIGSTOP)
    try:
        with pytest.raises(BackendTimeout, match="processed no token"):
            await backend.execute(stream_job(Operation.CHAT), waiting)
        assert discovery.routes(MODEL) == []
        assert (await backend.health()).reachable, "vLLM itself does not notice"
        assert not stream.done(), "a stream with output keeps its own timeout"
        changed.clear()
    finally:
        os.kill(server.engine_pid, signal.SIGCONT)
    stream.cancel()
    for attempt in attempts:
        attempt.abandoned()
    while not discovery.routes(MODEL):
        await changed.wait()
        changed.clear()
    running.cancel()
    await asyncio.gather(running, stream, return_exceptions=True)
    await discovery.close()


async def test_failed_engine_ends_every_stream_with_an_error(
    server: VllmServer, backend: Backend
) -> None:
    await backend.list_models()
    sinks = {operation: CollectingSink() for operation in STREAMS}
    jobs = [
        asyncio.create_task(backend.execute(stream_job(operation), sink))
        for operation, sink in sinks.items()
    ]
    for sink in sinks.values():
        await sink.first_chunk.wait()

    os.kill(server.engine_pid, signal.SIGKILL)
    ends = dict(zip(STREAMS, await asyncio.gather(*jobs, return_exceptions=True), strict=True))

    for operation, end in ends.items():
        assert isinstance(end, BackendError), (operation, end)
        assert sinks[operation].status == 200
        assert sinks[operation].data
    assert {operation: type(end).__name__ for operation, end in ends.items()} == {
        # vLLM sends an error event, except for Responses, where it closes the connection.
        Operation.CHAT: "ErrorInStream",
        Operation.MESSAGES: "ErrorInStream",
        Operation.COMPLETIONS: "ErrorInStream",
        Operation.RESPONSES: "Transport",
    }
    assert sinks[Operation.CHAT].data.endswith(b"data: [DONE]\n\n"), (
        "vLLM sends [DONE] after an error"
    )
    assert not (await backend.health()).reachable


async def test_job_for_a_failed_server_fails_with_a_backend_error(backend: Backend) -> None:
    # The test before this one has killed the engine of the module's server.
    with pytest.raises(BackendError) as caught:
        await backend.execute(stream_job(Operation.CHAT), CollectingSink())

    assert caught.value.code in {ErrorCode.BACKEND_UNREACHABLE, ErrorCode.BACKEND_ERROR}
