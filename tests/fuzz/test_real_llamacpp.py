"""A real llama.cpp server survives every request, and each error is the client's fault."""

import asyncio
import os
import resource
import signal
import sys
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
from provider_agent.protocol.limits import KIB, MIB
from tests.fuzz.depth import STEPS_DONE, depth
from tests.kit import hostile_requests
from tests.kit.hostile_requests import HostileRequest
from tests.kit.request_log import RequestLog
from tests.kit.sink import CollectingSink

OPERATIONS = frozenset(Operation) - {Operation.EMBEDDINGS}
MAX_SERVER_BYTES = 600 * MIB
"""The server uses about 60 MiB after its start."""
ADDRESS_SPACE_BYTES = 6 * KIB * MIB
"""The limit of the server's address space. Without it, one request made the server grow to 23.8 GB,
until the kernel killed it."""


class RealServer:
    """A llama.cpp server with limited memory, and the adapter that sends requests to it.

    Args:
        model: the GGUF file.
        requests: records each request before it is sent.
    """

    def __init__(self, model: Path, requests: RequestLog) -> None:
        self._requests = requests
        self._runner = asyncio.Runner()
        self._process = LlamaCppProcess(model)
        url = self._runner.run(self._process.start())
        if sys.platform == "linux" and self._process.pid is not None:
            limit = (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES)
            resource.prlimit(self._process.pid, resource.RLIMIT_AS, limit)
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
        self._requests.add(request)
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

    def check(self, error: BackendError | None) -> None:
        """Fail if the server died or grew, or if the error of the last request counts against it.

        The message names the request: once the server is dead, hypothesis cannot reproduce it.
        """
        problem = ""
        size = self._memory_bytes()
        if size is None:
            problem = "the server died"
        elif size > MAX_SERVER_BYTES:
            problem = f"the server uses {size // MIB} MiB"
        elif error is not None and entry_for(error.code).fault is not Fault.CLIENT:
            problem = repr(error)
        assert not problem, f"{problem}; {self._requests.describe()}"

    def _memory_bytes(self) -> int | None:
        """Return the resident memory (proc(5)); None if the process has ended."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except FileNotFoundError:
            return None
        found = [line for line in status.splitlines() if line.startswith("VmRSS")]
        return int(found[0].split()[1]) * KIB if found else None  # a zombie has no such line

    def kill(self) -> None:
        """Kill the server, as the kernel does when the machine's memory is used up."""
        if self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGKILL)

    def stop(self) -> None:
        self._runner.run(self._backend.close())
        self._runner.run(self._process.stop())
        self._runner.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_model(path)
    return path


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    running = RealServer(model, RequestLog(tmp_path_factory.mktemp("requests")))
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
        server.check(error)

    run()


def test_the_death_of_the_server_names_its_request(model: Path, tmp_path: Path) -> None:
    dying = RealServer(model, RequestLog(tmp_path))
    try:
        dying.kill()
        error = dying.send(HostileRequest(Operation.CHAT, b'{"the last":"request"}'))
        with pytest.raises(AssertionError, match=r'the server died; .*chat\.json.*"the last"'):
            dying.check(error)
    finally:
        dying.stop()
