"""A vLLM that is full, whose engine hangs, then dies. These tests have a server of their own."""

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
from provider_agent.protocol.errors import ErrorCode
from tests.kit.sink import CollectingSink
from tests.real_vllm.conftest import VENV
from tests.real_vllm.gauges import load_when
from tests.real_vllm.server import MODEL, PARALLEL, START_S, VllmServer
from tests.real_vllm.tiny_model import write_tiny_model

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(START_S + 60)]

LENGTH = 12_000
LONG = {"max_tokens": LENGTH, "messages": [{"role": "user", "content": "a word"}]}
STREAMS: dict[Operation, dict[str, object]] = {
    Operation.CHAT: LONG,
    Operation.MESSAGES: LONG,
    Operation.COMPLETIONS: {"prompt": "a word", "max_tokens": LENGTH},
    Operation.RESPONSES: {"input": "a word", "max_output_tokens": LENGTH},
}
assert len(STREAMS) <= PARALLEL, "none of them may wait"
WAITING = 2
SILENCE_S = 5.0
"""Longer than a busy machine needs between two tokens, short enough to wait for."""


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


def stream_of(operation: Operation) -> Job:
    return Job(
        job_id=os.urandom(16),
        model_id=MODEL,
        format=operation.wire_format,
        request=msgspec.json.encode({"model": MODEL, "stream": True, **STREAMS[operation]}),
        deadline_ms=120_000,
        operation=operation,
    )


async def test_a_full_server_promises_nothing_to_the_jobs_that_wait_and_tells_how_many(
    backend: Backend,
) -> None:
    # vLLM answers a request that has to wait with 200 and headers at once.
    await backend.list_models()
    sinks = [CollectingSink() for _ in range(PARALLEL + WAITING)]
    jobs = []
    for sink in sinks[:PARALLEL]:
        jobs.append(asyncio.create_task(backend.execute(stream_of(Operation.CHAT), sink)))
        await sink.first_chunk.wait()
    jobs += [
        asyncio.create_task(backend.execute(stream_of(Operation.CHAT), sink))
        for sink in sinks[PARALLEL:]
    ]

    load = await load_when(backend, lambda load: load.waiting == WAITING)
    begun = [sink.status is not None for sink in sinks]

    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    assert load.running == PARALLEL
    assert begun == [True] * PARALLEL + [False] * WAITING
    await load_when(backend, lambda load: load.running == load.waiting == 0)


async def test_an_engine_that_hangs_ends_the_job_by_the_clock_and_may_come_back(
    server: VllmServer, backend: Backend
) -> None:
    clocks = TimeoutSettings(silence_s=SILENCE_S)
    impatient = create_backend(msgspec.structs.replace(backend.settings, timeouts=clocks))
    await impatient.list_models()
    sink = CollectingSink()
    job = asyncio.create_task(impatient.execute(stream_of(Operation.CHAT), sink))
    await sink.first_chunk.wait()
    os.kill(server.engine_pid, signal.SIGSTOP)
    try:
        with pytest.raises(BackendTimeout):
            await job
        assert (await backend.health()).reachable, "vLLM itself does not notice"
    finally:
        os.kill(server.engine_pid, signal.SIGCONT)
        await impatient.close()

    again = CollectingSink()
    whole = asyncio.create_task(backend.execute(stream_of(Operation.CHAT), again))
    await again.first_chunk.wait()
    whole.cancel()
    with pytest.raises(asyncio.CancelledError):
        await whole


async def test_an_engine_that_dies_ends_every_stream_with_an_error_after_its_bytes(
    server: VllmServer, backend: Backend
) -> None:
    await backend.list_models()
    sinks = {operation: CollectingSink() for operation in STREAMS}
    jobs = [
        asyncio.create_task(backend.execute(stream_of(operation), sink))
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
        # vLLM says so in an error frame, except on Responses, which it just cuts.
        Operation.CHAT: "ErrorInStream",
        Operation.MESSAGES: "ErrorInStream",
        Operation.COMPLETIONS: "ErrorInStream",
        Operation.RESPONSES: "Transport",
    }
    assert sinks[Operation.CHAT].data.endswith(b"data: [DONE]\n\n"), "as if all were well"
    assert not (await backend.health()).reachable


async def test_a_job_for_a_dead_server_may_be_tried_elsewhere(backend: Backend) -> None:
    with pytest.raises(BackendError) as caught:
        await backend.execute(stream_of(Operation.CHAT), CollectingSink())

    assert caught.value.code in {ErrorCode.BACKEND_UNREACHABLE, ErrorCode.BACKEND_ERROR}
