"""The same responses over loopback, through both HTTP clients."""

import asyncio

import pytest

from provider_agent.adapters.errors import BackendError, Unreachable
from provider_agent.adapters.http.client import HttpRequest
from tests.kit.loops import on_both_loops
from tests.kit.raw_server import ARRIVES_S, AfterReply, RawServer, Reply, chunked
from tests.kit.virtual_time import in_virtual_time
from tests.unit.adapters.http.recording_receiver import RecordingReceiver
from tests.unit.adapters.http.recording_server import (
    CLIENTS,
    HELLO,
    REQUEST,
    REQUEST_BODY,
    Read,
    RecordingServer,
    client_of,
    exchange,
)
from tests.unit.adapters.http.responses import CASES, CHUNKED

OUTCOMES = [
    pytest.param(name, client, id=f"{name} {client}")
    for name, case in CASES.items()
    for client in CLIENTS
    if client == "direct" or not case.direct_only
]


@pytest.mark.parametrize(("name", "client_name"), OUTCOMES)
@in_virtual_time
async def test_response_has_the_same_outcome_in_one_read_and_in_two(
    name: str, client_name: str
) -> None:
    case = CASES[name]
    middle = len(case.data) // 2
    replies = [
        Reply(case.data, case.then),
        Reply(case.data[:middle], case.then, late=case.data[middle:]),
    ]
    async with RawServer(replies) as server, client_of(client_name, server.url) as client:
        for _ in replies:
            receiver = RecordingReceiver()
            raised: type[BackendError] | None = None
            try:
                await client.exchange(REQUEST, receiver)
            except BackendError as error:
                raised = type(error)

            assert raised is case.error
            assert receiver.status == case.status
            assert receiver.data == case.body
            await asyncio.sleep(3 * ARRIVES_S)
    assert server.requests == [REQUEST.body] * 2


@pytest.mark.parametrize("client_name", CLIENTS)
@in_virtual_time
async def test_response_may_arrive_byte_by_byte(client_name: str) -> None:
    async def drip(read: Read, writer: asyncio.StreamWriter) -> None:
        await read()
        for byte in CHUNKED + chunked(b"ab") + chunked(b"cd") + b"0\r\nT: x\r\n\r\n":
            writer.write(bytes([byte]))
            await asyncio.sleep(ARRIVES_S)

    server = RecordingServer(drip)
    async with server.running(), client_of(client_name, server.url) as client:
        assert await exchange(client) == b"abcd"


async def head_of(request: HttpRequest, client_name: str, path: str = "") -> list[str]:
    """Send a request to a server below `path`, and return the lines of its head."""
    heads: list[bytes] = []

    async def answer(read: Read, writer: asyncio.StreamWriter) -> None:
        heads.append(await read())
        writer.write(HELLO)

    server = RecordingServer(answer)
    async with server.running(), client_of(client_name, server.url + path) as client:
        assert await exchange(client, request) == b"hello"
    return heads[0].decode().splitlines()


@pytest.mark.parametrize("client_name", CLIENTS)
@on_both_loops
async def test_request_has_all_headers(client_name: str) -> None:
    line, *headers = await head_of(REQUEST, client_name, "/base")
    assert line == "POST /base/v1/x HTTP/1.1"
    assert {"X-All: all", "X-One: 1", f"Content-Length: {len(REQUEST_BODY)}"} <= set(headers)
    assert any(header.startswith("Host: 127.0.0.1:") for header in headers)


@pytest.mark.parametrize("client_name", CLIENTS)
@on_both_loops
async def test_request_without_a_body_has_no_length(client_name: str) -> None:
    line, *headers = await head_of(HttpRequest("/x?a=%20b", {}, None, "GET"), client_name)
    assert line == "GET /x?a=%20b HTTP/1.1"
    assert not any(header.lower().startswith("content-length:") for header in headers)


@pytest.mark.parametrize("client_name", CLIENTS)
@on_both_loops
async def test_new_connection_is_opened_on_request(client_name: str) -> None:
    async def answer_all(read: Read, writer: asyncio.StreamWriter) -> None:
        while True:
            await read()
            writer.write(HELLO)

    server = RecordingServer(answer_all)
    async with server.running(), client_of(client_name, server.url) as client:
        await exchange(client)
        await client.exchange(REQUEST, RecordingReceiver(), new_connection=True)

    assert server.requests == [[REQUEST_BODY], [REQUEST_BODY]]


@pytest.mark.parametrize("client_name", CLIENTS)
@in_virtual_time
async def test_cancellation_closes_the_connection(client_name: str) -> None:
    reply = Reply(CHUNKED + chunked(b"ab"), AfterReply.HANG)
    async with RawServer([reply]) as server, client_of(client_name, server.url) as client:
        receiver = RecordingReceiver()
        running = asyncio.create_task(client.exchange(REQUEST, receiver))
        await receiver.started.wait()

        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await server.abandoned.wait()


@pytest.mark.parametrize("client_name", CLIENTS)
@in_virtual_time
async def test_stop_ends_the_exchange_and_closes_the_connection(client_name: str) -> None:
    reply = Reply(CHUNKED + chunked(b"ab"), AfterReply.HANG)
    async with RawServer([reply]) as server, client_of(client_name, server.url) as client:
        receiver = RecordingReceiver()
        running = asyncio.create_task(client.exchange(REQUEST, receiver))
        await receiver.started.wait()
        await asyncio.sleep(ARRIVES_S)

        receiver.source.stop()
        receiver.source.stop()

        await running
        assert receiver.data == b"ab"
        await server.abandoned.wait()


@pytest.mark.parametrize("client_name", CLIENTS)
@in_virtual_time
async def test_paused_response_reads_no_more_until_it_resumes(client_name: str) -> None:
    late = chunked(b"cd") + b"0\r\n\r\n"
    reply = Reply(CHUNKED + chunked(b"ab"), late=late)
    async with RawServer([reply]) as server, client_of(client_name, server.url) as client:
        receiver = RecordingReceiver(pause_at=1)
        running = asyncio.create_task(client.exchange(REQUEST, receiver))
        await receiver.paused.wait()
        await asyncio.sleep(3 * ARRIVES_S)
        assert receiver.data == b"ab"

        receiver.pause_at = None
        receiver.source.resume_reading()

        await running
        assert receiver.data == b"abcd"


@pytest.mark.parametrize("client_name", CLIENTS)
@in_virtual_time
async def test_cancelled_response_delivers_what_arrived_during_a_pause(client_name: str) -> None:
    late = chunked(b"cd") + b"0\r\n\r\n"
    reply = Reply(CHUNKED + chunked(b"ab"), late=late, then=AfterReply.HANG)
    async with RawServer([reply]) as server, client_of(client_name, server.url) as client:
        receiver = RecordingReceiver(pause_at=1)
        running = asyncio.create_task(client.exchange(REQUEST, receiver))
        await receiver.paused.wait()
        await asyncio.sleep(3 * ARRIVES_S)

        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    assert (receiver.data, receiver.unread) == (b"ab", b"cd")


@pytest.mark.parametrize("client_name", CLIENTS)
async def test_refused_connection_is_unreachable(client_name: str) -> None:
    async with RawServer([Reply(HELLO)]) as server:
        url = server.url
    async with client_of(client_name, url) as client:
        with pytest.raises(Unreachable, match="connection refused"):
            await client.exchange(REQUEST, RecordingReceiver())


@pytest.mark.parametrize("client_name", CLIENTS)
async def test_unknown_host_is_unreachable(client_name: str) -> None:
    async with client_of(client_name, "http://no-such-host.invalid") as client:
        with pytest.raises(Unreachable, match="no such host"):
            await client.exchange(REQUEST, RecordingReceiver())


@pytest.mark.parametrize("client_name", CLIENTS)
@on_both_loops
async def test_closed_client_opens_new_connections(client_name: str) -> None:
    reply = Reply(HELLO)
    async with RawServer([reply]) as server, client_of(client_name, server.url) as client:
        await client.exchange(REQUEST, RecordingReceiver())
        await client.close()
        receiver = RecordingReceiver()
        await client.exchange(REQUEST, receiver)

    assert receiver.data == b"hello"
