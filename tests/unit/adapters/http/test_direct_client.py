"""Which connection a request of the direct client uses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from provider_agent.adapters.errors import BackendTimeout, Transport
from provider_agent.adapters.http import direct_client
from provider_agent.adapters.http.client import HttpRequest
from provider_agent.adapters.http.connection import HttpConnection
from provider_agent.adapters.http.dialer import Dialer
from provider_agent.adapters.http.direct_client import DirectClient
from provider_agent.adapters.http.exchange import Exchange
from provider_agent.adapters.http.keep_alive import KEEP_ALIVE_S
from tests.kit.loops import on_both_loops
from tests.kit.virtual_time import in_virtual_time
from tests.unit.adapters.http.recording_receiver import RecordingReceiver
from tests.unit.adapters.http.recording_server import (
    HELLO,
    REQUEST,
    Read,
    RecordingServer,
    exchange,
)
from tests.unit.adapters.http.responses import CHUNKED


@asynccontextmanager
async def served(
    handler: Callable[[Read, asyncio.StreamWriter], Awaitable[None]], *, reuse: bool = True
) -> AsyncIterator[tuple[RecordingServer, DirectClient]]:
    """Yield a server, and a client of it."""
    server = RecordingServer(handler)
    async with server.running():
        client = DirectClient(server.url, {}, reuse=reuse, remote=False, connect_s=5.0)
        try:
            yield server, client
        finally:
            await client.close()


async def answer_all(read: Read, writer: asyncio.StreamWriter) -> None:
    while True:
        await read()
        writer.write(HELLO)


# --- reuse -----------------------------------------------------------------------------------


@on_both_loops
async def test_requests_share_a_connection_one_after_the_other() -> None:
    async with served(answer_all) as (server, client):
        for _ in range(3):
            assert await exchange(client) == b"hello"

    assert server.requests == [[REQUEST.body] * 3]


@on_both_loops
async def test_each_request_has_its_own_connection_without_reuse() -> None:
    heads: list[bytes] = []

    async def answer(read: Read, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append(await read())
            writer.write(HELLO)

    async with served(answer, reuse=False) as (server, client):
        for _ in range(2):
            await exchange(client)
        assert repr(client) == "<DirectClient idle=0>"

    assert server.requests == [[REQUEST.body]] * 2
    assert all(b"\r\nConnection: close\r\n" in head for head in heads)


@on_both_loops
async def test_concurrent_requests_have_their_own_connections() -> None:
    both_arrived = asyncio.Event()

    async def answer(read: Read, writer: asyncio.StreamWriter) -> None:
        await read()
        if len(server.requests) == 2:
            both_arrived.set()
        await both_arrived.wait()
        writer.write(HELLO)
        await read()

    async with served(answer) as (server, client):
        await asyncio.gather(exchange(client), exchange(client))
        assert repr(client) == "<DirectClient idle=2>"

    assert [len(requests) for requests in server.requests] == [1, 1]


@on_both_loops
async def test_last_idle_connection_is_used_first() -> None:
    first_arrived, second_done = asyncio.Event(), asyncio.Event()

    async def answer(read: Read, writer: asyncio.StreamWriter) -> None:
        await read()
        if len(server.requests) == 1:
            first_arrived.set()
            await second_done.wait()
        writer.write(HELLO)
        await answer_all(read, writer)

    async with served(answer) as (server, client):
        first = asyncio.create_task(exchange(client))
        await first_arrived.wait()
        await exchange(client)
        second_done.set()
        await first
        await exchange(client)

    assert [len(requests) for requests in server.requests] == [2, 1]


@in_virtual_time
async def test_idle_connections_are_closed_after_the_keep_alive_time() -> None:
    async with served(answer_all) as (server, client):
        await exchange(client)
        await asyncio.sleep(0.9 * KEEP_ALIVE_S)
        await exchange(client)
        assert len(server.requests) == 1
        await asyncio.sleep(0.9 * KEEP_ALIVE_S)
        assert repr(client) == "<DirectClient idle=1>"
        await asyncio.sleep(0.2 * KEEP_ALIVE_S)
        assert repr(client) == "<DirectClient idle=0>"
        await asyncio.gather(*server.tasks)  # the server's side has ended, too
        await exchange(client)

    assert len(server.requests) == 2


@in_virtual_time
async def test_no_timer_runs_without_idle_connections() -> None:
    async with served(answer_all) as (_, client):
        await exchange(client)
        assert client._expiry is not None
        await asyncio.sleep(2 * KEEP_ALIVE_S)
        assert client._expiry is None


@on_both_loops
async def test_number_of_idle_connections_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_client, "MAX_IDLE", 2)
    all_arrived = asyncio.Event()

    async def answer(read: Read, writer: asyncio.StreamWriter) -> None:
        await read()
        if sum(map(len, server.requests)) == 4:
            all_arrived.set()
        await all_arrived.wait()
        writer.write(HELLO)
        await read()

    async with served(answer) as (server, client):
        await asyncio.gather(*(exchange(client) for _ in range(4)))
        assert repr(client) == "<DirectClient idle=2>"


@pytest.mark.parametrize("rest", [b"", b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n"])
@on_both_loops
async def test_connection_that_the_server_closed_or_wrote_to_is_not_used(rest: bytes) -> None:
    written = asyncio.Event()

    async def close(read: Read, writer: asyncio.StreamWriter) -> None:
        await read()
        writer.write(HELLO)
        await writer.drain()
        writer.write(rest)
        writer.write_eof()
        written.set()
        await read()

    async with served(close) as (server, client):
        await exchange(client)
        await written.wait()
        await exchange(client)

    assert server.requests == [[REQUEST.body]] * 2


# --- cancellation and large requests -----------------------------------------------------------


@on_both_loops
async def test_cancelled_request_closes_its_connection() -> None:
    async def hang(read: Read, writer: asyncio.StreamWriter) -> None:
        await read()
        writer.write(CHUNKED)
        await read()

    async with served(hang) as (server, client):
        receiver = RecordingReceiver()
        running = asyncio.create_task(client.exchange(REQUEST, receiver))
        await receiver.started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert repr(client) == "<DirectClient idle=0>"
        await asyncio.gather(*server.tasks)


@on_both_loops
async def test_connection_of_a_response_that_ends_with_the_cancellation_is_kept_or_closed() -> None:
    # The response may end between the cancellation and the next step of the task.
    async with served(answer_all) as (server, client):
        receiver = RecordingReceiver()
        running = asyncio.create_task(client.exchange(REQUEST, receiver))
        await receiver.started.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await client.close()
        await asyncio.gather(*server.tasks)  # no connection was left open


@on_both_loops
async def test_error_of_an_exchange_that_is_cancelled_too_is_not_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end_and_cancel(_: HttpConnection, exchange: Exchange, *_args: bytes) -> None:
        exchange.end(Transport("lost"))
        running.cancel()

    async with served(answer_all) as (_, client):
        await exchange(client)
        monkeypatch.setattr(HttpConnection, "start", end_and_cancel)
        running = asyncio.create_task(exchange(client))
        with pytest.raises(asyncio.CancelledError):
            await running
    assert caplog.records == []


@on_both_loops
async def test_large_request_arrives_completely() -> None:
    request = HttpRequest("/x", {}, bytes(range(256)) * 40_000)
    async with served(answer_all) as (server, client):
        await exchange(client, request)

    assert server.requests == [[request.body]]


@on_both_loops
async def test_response_before_the_end_of_a_large_request_is_accepted() -> None:
    async def reject(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        while await reader.read(65_536):
            pass
        writer.close()
        finished.set()

    finished = asyncio.Event()
    listening = await asyncio.start_server(reject, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    client = DirectClient(url, {}, reuse=True, remote=False, connect_s=5.0)
    receiver = RecordingReceiver()
    async with listening:
        await client.exchange(HttpRequest("/x", {}, b"x" * 50_000_000), receiver)
        assert repr(client) == "<DirectClient idle=0>", "the rest of the request is unsent"
        await finished.wait()

    assert (receiver.status, receiver.data) == (413, b"no")


@in_virtual_time
async def test_server_that_accepts_no_connection_times_out() -> None:
    client = DirectClient("http://127.0.0.1:1", {}, reuse=True, remote=False, connect_s=5.0)

    async def hang(_: Dialer) -> None:
        await asyncio.Event().wait()

    client._dialer._connect = hang.__get__(client._dialer)  # type: ignore[method-assign]
    with pytest.raises(BackendTimeout, match="connect timeout"):
        await exchange(client)
