"""A real vLLM survives every request, and each error is the client's fault."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given

from provider_agent.adapters.base import BackendError, BackendSettings, Job, Operation
from provider_agent.adapters.servers.vllm import VllmBackend
from provider_agent.protocol.errors import Fault, entry_for
from tests.fuzz.depth import depth
from tests.kit import hostile_requests
from tests.kit.adapters_under_test import REAL_VLLM, VLLM_KEY, VLLM_URL
from tests.kit.hostile_requests import HostileRequest
from tests.kit.sink import CollectingSink

pytestmark = pytest.mark.vllm

OPERATIONS = frozenset(Operation) - {Operation.EMBEDDINGS}


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as running:
        yield running


async def error_of(backend: VllmBackend, request: HostileRequest) -> BackendError | None:
    """Execute a request as a job, and return its error."""
    job = Job(
        job_id=bytes(16),
        model_id=REAL_VLLM.model_id,
        format=request.operation.wire_format,
        request=request.body,
        deadline_ms=60_000,
        operation=request.operation,
    )
    try:
        await backend.execute(job, CollectingSink())
    except BackendError as error:
        return error
    return None


def test_server_survives_and_no_error_counts_against_it(runner: asyncio.Runner) -> None:
    backend = VllmBackend(
        BackendSettings(kind="vllm", url=VLLM_URL, api_key=VLLM_KEY, max_output_tokens=3)
    )

    @given(hostile_requests.requests(OPERATIONS))
    @depth(5)
    def run(request: HostileRequest) -> None:
        error = runner.run(error_of(backend, request))
        assert error is None or entry_for(error.code).fault is Fault.CLIENT, repr(error)

    try:
        run()
        assert runner.run(backend.health()).reachable
    finally:
        runner.run(backend.close())
