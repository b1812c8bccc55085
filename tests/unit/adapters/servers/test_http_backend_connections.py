import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext

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


@pytest.mark.parametrize("answered", [2, 3])
async def test_api_request_is_sent_twice_at_most(answered: int) -> None:
    received: list[bytes] = []

    async def answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await read_request(reader))
        if len(received) == answered:
            writer.write(response(b"{}"))

    async with backend_of_raw_server(answer_late) as backend:
        with nullcontext() if answered == 2 else pytest.raises(Transport):
            await backend.request("POST", "/api/show", json={})

    assert len(received) == 2


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
