"""Which connection a request of the direct client uses, and when it is sent twice."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from provider_agent.adapters.errors import BackendTimeout, Transport, Unreachable
from provider_agent.adapters.http import direct_client
from provider_agent.adapters.http.client import HttpRequest
from provider_agent.adapters.http.connection import HttpConnection
from provider_agent.adapters.http.dialer import Dialer
from provider_agent.adapters.http.direct_client import DirectClient
from provider_agent.adapters.http.exchange import Exchange
from provider_agent.adapters.http.keep_alive import KEEP_ALIVE_S, STALE_S
from tests.kit.loops import on_both_loops
from tests.kit.virtual_time import in_virtual_time
from tests.unit.adapters.http.recording_receiver import RecordingReceiver
from tests.unit.adapters.http.responses import CHUNKED, OK

REQUEST = HttpRequest("/x", {}, b"body")
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"

Read = Callable[[], Awaitable[bytes]]


class Server:
    """A server whose connections are handled by `handler`.

    Attributes:
        requests: the bodies that each connection has received, in the order of the connections.
    """

    def __init__(self, handler: Callable[[Read, asyncio.StreamWriter], Awaitable[None]]) -> None:
        self._handler = handler
        self.requests: list[list[bytes]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.url = ""

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.append(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received: list[bytes] = []
        self.requests.append(received)

        async def read() -> bytes:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            received.append(await reader.readexactly(length))
            return head

        try:
            await self._handler(read, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def served(
    handler: Callable[[Read, asyncio.StreamWriter], Awaitable[None]],
    *,
    reuse: bool = True,
    remote: bool = False,
) -> AsyncIterator[tuple[Server, DirectClient]]:
    """Yield a server, and a client of it."""
    server = Server(handler)
    listening = await asyncio.start_server(server.accept, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    client = DirectClient(server.url, {}, reuse=reuse, remote=remote, connect_s=5.0)
    try:
        yield server, client
    finally:
        await client.close()
        listening.close()
        await asyncio.gather(*server.tasks)


async def answer_all(read: Read, writer: asyncio.StreamWriter) -> None:
    while True:
        await read()
        writer.write(HELLO)


async def exchange(client: DirectClient, request: HttpRequest = REQUEST) -> bytes:
    receiver = RecordingReceiver()
    await client.exchange(request, receiver)
    return receiver.data


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
    assert all(b"\r\nconnection: close\r\n" in head for head in heads)


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


# --- a closed connection -----------------------------------------------------------------------


async def close_at_second_request(read: Read, writer: asyncio.StreamWriter) -> None:
    await read()
    writer.write(HELLO)
    await read()


@on_both_loops
async def test_request_on_a_connection_closed_meanwhile_is_sent_once_more() -> None:
    async with served(close_at_second_request) as (server, client):
        await exchange(client)
        assert await exchange(client) == b"hello"

    assert [len(requests) for requests in server.requests] == [2, 1]


@on_both_loops
async def test_request_is_sent_twice_at_most() -> None:
    async def close(read: Read, writer: asyncio.StreamWriter) -> None:
        await read()
        if len(server.requests) == 1:
            writer.write(HELLO)
            await read()

    async with served(close) as (server, client):
        await exchange(client)
        with pytest.raises(Transport):
            await exchange(client)

    assert [len(requests) for requests in server.requests] == [2, 1]


@on_both_loops
async def test_request_lost_on_a_new_connection_is_not_repeated() -> None:
    async def close(read: Read, writer: asyncio.StreamWriter) -> None:
        await read()

    async with served(close) as (server, client):
        with pytest.raises(Transport):
            await exchange(client)

    assert server.requests == [[REQUEST.body]]


@on_both_loops
async def test_request_whose_response_has_begun_is_not_repeated() -> None:
    async def break_off(read: Read, writer: asyncio.StreamWriter) -> None:
        await read()
        writer.write(HELLO)
        await read()
        writer.write(b"HTTP/1.1")

    async with served(break_off) as (server, client):
        await exchange(client)
        with pytest.raises(Transport):
            await exchange(client)

    assert [len(requests) for requests in server.requests] == [2]


@pytest.mark.parametrize(("remote", "repeated"), [(False, False), (True, True)])
@in_virtual_time
async def test_request_that_is_lost_late_is_repeated_only_for_a_remote_server(
    remote: bool, repeated: bool
) -> None:
    async def close_late(read: Read, writer: asyncio.StreamWriter) -> None:
        await read()
        writer.write(HELLO)
        if len(server.requests) == 1:
            await read()
            await asyncio.sleep(STALE_S)

    async with served(close_late, remote=remote) as (server, client):
        await exchange(client)
        try:
            await exchange(client)
        except Transport:
            assert not repeated
    assert len(server.requests) == 1 + repeated


@on_both_loops
async def test_loss_is_reported_if_the_server_is_down_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with served(close_at_second_request) as (_, client):
        await exchange(client)

        async def refuse(_: Dialer) -> HttpConnection:
            raise Unreachable("connection refused")

        monkeypatch.setattr(Dialer, "dial", refuse)
        with pytest.raises(Transport):  # `Unreachable` would hide that the server may have died
            await exchange(client)


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
