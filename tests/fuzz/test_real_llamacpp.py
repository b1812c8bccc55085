"""A real llama.cpp server survives every request, and each error is the client's fault."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.base import (
    BackendError,
    BackendSettings,
    Job,
    Operation,
    TimeoutSettings,
)
from provider_agent.adapters.servers.llamacpp import LlamaCppBackend
from provider_agent.agent.cli.demo.llamacpp_process import LlamaCppProcess
from provider_agent.agent.cli.demo.tiny_model import write_tiny_model
from provider_agent.protocol.errors import Fault, entry_for
from provider_agent.protocol.limits import MIB
from tests.fuzz.depth import STEPS_DONE, depth
from tests.kit import hostile_requests
from tests.kit.hostile_requests import HostileRequest
from tests.kit.sink import CollectingSink

OPERATIONS = frozenset(Operation) - {Operation.EMBEDDINGS}
MAX_SERVER_BYTES = 600 * MIB
"""The server uses about 60 MiB after its start."""


class RealServer:
    """A llama.cpp server, and the adapter that sends requests to it."""

    def __init__(self, model: Path) -> None:
        self._runner = asyncio.Runner()
        self._process = LlamaCppProcess(model)
        url = self._runner.run(self._process.start())
        self._backend = LlamaCppBackend(
            BackendSettings(
                kind="llamacpp",
                url=url,
                timeouts=TimeoutSettings(first_byte_s=20, silence_s=20, total_s=20),
                max_output_tokens=3,
            )
        )

    def send(self, request: HostileRequest) -> BackendError | None:
        """Execute a request as a job; return its error."""
        job = Job(
            job_id=bytes(16),
            model_id="tiny",
            format=request.operation.wire_format,
            request=request.body,
            deadline_ms=60_000,
            operation=request.operation,
        )
        try:
            self._runner.run(self._backend.execute(job, CollectingSink()))
        except BackendError as error:
            return error
        return None

    @property
    def memory_bytes(self) -> int:
        """The resident memory (proc(5)); fails if the process has ended."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) * 1024

    def stop(self) -> None:
        self._runner.run(self._backend.close())
        self._runner.run(self._process.stop())
        self._runner.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    model = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_model(model)
    running = RealServer(model)
    yield running
    running.stop()


@pytest.mark.parametrize(
    "requests",
    [hostile_requests.requests(OPERATIONS), hostile_requests.constrained_requests()],
    ids=["any field", "schemas and grammars"],
)
def test_server_survives_and_no_error_counts_against_it(
    server: RealServer, requests: st.SearchStrategy[HostileRequest]
) -> None:
    @given(requests)
    @depth(2.5)
    def run(request: HostileRequest) -> None:
        STEPS_DONE["requests"] += 1
        error = server.send(request)
        if error is None:
            STEPS_DONE["answered"] += 1
        elif error.status is not None:
            STEPS_DONE["refused by the server"] += 1
        assert server.memory_bytes < MAX_SERVER_BYTES
        assert error is None or entry_for(error.code).fault is Fault.CLIENT, repr(error)

    run()
