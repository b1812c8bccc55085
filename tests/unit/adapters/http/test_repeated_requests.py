"""When a request is sent twice, by both HTTP clients."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from provider_agent.adapters.errors import Transport
from provider_agent.adapters.http.client import HttpClient
from provider_agent.adapters.http.keep_alive import STALE_S
from tests.kit.loops import on_both_loops
from tests.kit.virtual_time import in_virtual_time
from tests.unit.adapters.http.recording_server import (
    CLIENTS,
    HELLO,
    REQUEST,
    Read,
    RecordingServer,
    client_of,
    exchange,
)

for_both_clients = pytest.mark.parametrize("client_name", CLIENTS)


@asynccontextmanager
async def served(
    client_name: str,
    handler: Callable[[Read, asyncio.StreamWriter], Awaitable[None]],
    *,
    remote: bool = False,
) -> AsyncIterator[tuple[RecordingServer, HttpClient]]:
    """Yield a server, and a client of it."""
    server = RecordingServer(handler)
    async with server.running(), client_of(client_name, server.url, remote=remote) as client:
        yield server, client


async def close_at_second_request(read: Read, writer: asyncio.StreamWriter) -> None:
    await read()
    writer.write(HELLO)
    await read()


@for_both_clients
@on_both_loops
async def test_request_on_a_connection_closed_meanwhile_is_sent_once_more(client_name: str) -> None:
    async with served(client_name, close_at_second_request) as (server, client):
        await exchange(client)
        assert await exchange(client) == b"hello"

    assert server.requests == [[REQUEST.body] * 2, [REQUEST.body]]


@for_both_clients
@on_both_loops
async def test_repeated_request_opens_a_connection_even_if_others_are_idle(
    client_name: str,
) -> None:
    both_arrived = asyncio.Event()

    async def answer_once(read: Read, writer: asyncio.StreamWriter) -> None:
        await read()
        if len(server.requests) == 2:
            both_arrived.set()
        await both_arrived.wait()
        writer.write(HELLO)
        if len(server.requests) == 2:  # both become idle; each closes after its next request
            await read()

    async with served(client_name, answer_once) as (server, client):
        await asyncio.gather(exchange(client), exchange(client))
        await exchange(client)

    assert sorted(map(len, server.requests)) == [1, 1, 2]


@for_both_clients
@on_both_loops
async def test_request_is_sent_twice_at_most(client_name: str) -> None:
    async def close(read: Read, writer: asyncio.StreamWriter) -> None:
        await read()
        if len(server.requests) == 1:
            writer.write(HELLO)
            await read()

    async with served(client_name, close) as (server, client):
        await exchange(client)
        with pytest.raises(Transport):
            await exchange(client)

    assert [len(requests) for requests in server.requests] == [2, 1]


@for_both_clients
@on_both_loops
async def test_request_lost_on_a_new_connection_is_not_repeated(client_name: str) -> None:
    async def close(read: Read, writer: asyncio.StreamWriter) -> None:
        await read()

    async with served(client_name, close) as (server, client):
        with pytest.raises(Transport):
            await exchange(client)

    assert server.requests == [[REQUEST.body]]


@for_both_clients
@on_both_loops
async def test_request_whose_response_has_begun_is_not_repeated(client_name: str) -> None:
    async def break_off(read: Read, writer: asyncio.StreamWriter) -> None:
        await read()
        writer.write(HELLO)
        await read()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-")

    async with served(client_name, break_off) as (server, client):
        await exchange(client)
        with pytest.raises(Transport):
            await exchange(client)

    assert [len(requests) for requests in server.requests] == [2]


@pytest.mark.parametrize(("remote", "repeated"), [(False, False), (True, True)])
@for_both_clients
@in_virtual_time
async def test_request_that_is_lost_late_is_repeated_only_for_a_remote_server(
    client_name: str, remote: bool, repeated: bool
) -> None:
    async def close_late(read: Read, writer: asyncio.StreamWriter) -> None:
        await read()
        writer.write(HELLO)
        if len(server.requests) == 1:
            await read()
            await asyncio.sleep(STALE_S)

    async with served(client_name, close_late, remote=remote) as (server, client):
        await exchange(client)
        try:
            await exchange(client)
        except Transport:
            assert not repeated

    assert len(server.requests) == 1 + repeated


@for_both_clients
@on_both_loops
async def test_loss_is_reported_if_the_server_is_down_afterwards(client_name: str) -> None:
    async def die(read: Read, writer: asyncio.StreamWriter) -> None:
        await close_at_second_request(read, writer)
        server.refuse_connections()

    async with served(client_name, die) as (server, client):
        await exchange(client)
        with pytest.raises(Transport):  # `Unreachable` would hide that the server may have died
            await exchange(client)
