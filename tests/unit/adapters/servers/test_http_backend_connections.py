import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from provider_agent.adapters.base import (
    BackendSettings,
    BadStatus,
    InvalidResponse,
    Transport,
)
from provider_agent.adapters.servers.http_backend import HttpBackend
from provider_agent.adapters.servers.openai_compatible import OpenAICompatibleBackend
from tests.kit.sink import CollectingSink
from tests.unit.adapters.conftest import a_job

ConnectionHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def backend_of_raw_server(handler: ConnectionHandler) -> AsyncIterator[HttpBackend]:
    """Yield a backend whose server handles each connection with `handler`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    settings = BackendSettings(kind="openai_compatible", url=f"http://127.0.0.1:{port}")
    backend = OpenAICompatibleBackend(settings)
    try:
        yield backend
    finally:
        await backend.close()
        listening.close()
        await listening.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return head + await reader.readexactly(length)


def response(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def test_closed_idle_connection_is_replaced() -> None:
    connections: list[list[bytes]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests: list[bytes] = []
        connections.append(requests)
        requests.append(await read_request(reader))
        writer.write(response(b'{"choices":[]}'))
        if len(connections) == 1:
            # The server closes only after the next request was sent, which no client can prevent.
            requests.append(await read_request(reader))
            return
        await reader.read()

    async with backend_of_raw_server(handle) as backend:
        for _ in range(2):
            await backend.execute(a_job("m", stream=False), CollectingSink())

    assert [len(requests) for requests in connections] == [2, 1]
    assert (
        connections[0][1].partition(b"\r\n\r\n")[2] == connections[1][0].partition(b"\r\n\r\n")[2]
    )


async def test_request_to_a_server_that_always_closes_is_retried_once() -> None:
    received = 0

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        await read_request(reader)
        received += 1

    async with backend_of_raw_server(close) as backend:
        with pytest.raises(Transport):
            await backend.execute(a_job("m"), CollectingSink())

    assert received == 2


async def test_response_that_is_not_http_is_invalid() -> None:
    async def send_garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")

    async with backend_of_raw_server(send_garbage) as backend:
        with pytest.raises(InvalidResponse):
            await backend.execute(a_job("m"), CollectingSink())


async def test_truncated_error_body_keeps_its_status() -> None:
    async def truncate_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\n{half")

    async with backend_of_raw_server(truncate_body) as backend:
        with pytest.raises(BadStatus) as caught:
            await backend.execute(a_job("m"), CollectingSink())

    assert caught.value.status == 400
    assert caught.value.body == b"{half"
