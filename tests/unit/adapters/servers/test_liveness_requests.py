"""What a liveness check sends, and that jobs use no connection of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from provider_agent.adapters.base import Backend, BackendError, BackendSettings, Transport
from provider_agent.adapters.registry import backend_class
from tests.kit.sink import CollectingSink
from tests.unit.adapters.conftest import a_job


class CountingServer:
    """Answers requests with 200, or resets jobs at once; records requests per connection.

    Attributes:
        connections: the request lines of each connection.
        closed: how many connections the client has closed.
    """

    def __init__(self) -> None:
        self.connections: list[list[str]] = []
        self.url = ""
        self.closed = asyncio.Event()
        self.status = 200

    @asynccontextmanager
    async def running(self) -> AsyncIterator["CountingServer"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests: list[str] = []
        self.connections.append(requests)
        while line := await reader.readline():
            while (await reader.readline()).strip():
                pass
            requests.append(line.decode().split(" HTTP")[0])
            if requests[-1].startswith("POST"):
                writer.transport.abort()
                return
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\n{}" % self.status)
        self.closed.set()
        writer.close()


def backend_of(kind: str, url: str) -> Backend:
    return backend_class(kind)(BackendSettings(kind=kind, url=url, api_key="k"))


@pytest.mark.parametrize(
    ("kind", "requests"),
    [
        ("vllm", ["GET /health"]),
        ("llamacpp", ["GET /health"]),
        ("ollama", ["GET /api/version"]),
        # LM Studio logs an error for each request of an unknown route, and has none for health.
        ("lmstudio", []),
        ("openai_compatible", []),
    ],
)
async def test_liveness_check_is_one_small_request_on_a_connection_of_its_own(
    kind: str, requests: list[str]
) -> None:
    async with CountingServer().running() as server:
        backend = backend_of(kind, server.url)
        await backend.check_liveness()
        await server.closed.wait()
        assert server.connections == [requests]
        await backend.close()


@pytest.mark.parametrize("kind", ["openrouter", "venice", "echo"])
def test_no_liveness_checks_of(kind: str) -> None:
    assert not backend_class(kind)(BackendSettings(kind=kind)).checks_liveness


@pytest.mark.parametrize("kind", ["vllm", "llamacpp", "ollama"])
async def test_liveness_check_fails_without_success_status(kind: str) -> None:
    async with CountingServer().running() as server:
        server.status = 503
        backend = backend_of(kind, server.url)
        with pytest.raises(BackendError):
            await backend.check_liveness()
        await backend.close()


@pytest.mark.parametrize("kind", ["vllm", "llamacpp", "ollama", "lmstudio", "openai_compatible"])
async def test_liveness_check_of_a_stopped_server_fails(kind: str) -> None:
    async with CountingServer().running() as server:
        pass
    backend = backend_of(kind, server.url)
    with pytest.raises(BackendError):
        await backend.check_liveness()
    await backend.close()


async def test_job_after_a_health_check_is_sent_once_to_a_server_that_resets_it() -> None:
    # The job was the second request of the check's connection, so it counted as a request on a
    # stale connection, and the server received it twice.
    async with CountingServer().running() as server:
        backend = backend_of("llamacpp", server.url)
        await backend.health()
        with pytest.raises(Transport):
            await backend.execute(a_job("m"), CollectingSink())
        sent = [line for each in server.connections for line in each if line.startswith("POST")]
        assert len(sent) == 1
        await backend.close()
