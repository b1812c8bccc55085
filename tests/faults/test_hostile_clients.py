"""What clients with a key can do to the coordinator, over real sockets."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator

import aiohttp
import pytest
from msgspec.structs import replace

from provider_agent.coordinator.access import SecretSet
from provider_agent.coordinator.server import LAST_WRITES_S, Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.limits import KIB, MIB
from tests.faults.test_unauthenticated_peers import UPGRADE
from tests.kit.coordinator_harness import JSON_HEADERS
from tests.kit.loops import on_both_loops
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.scripted_job import ScriptedJob
from tests.kit.virtual_time import in_virtual_time, now

SETTINGS = CoordinatorSettings(
    port=0, drain_s=0, queue_s=0, api_keys=SecretSet(["secret"]), heartbeat_ms=3_600_000
)
CHAT = "/v1/chat/completions"
BODY = b'{"model":"tiny"}'
KEY = {"Authorization": "Bearer secret"}
HEAD = (
    f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nx-api-key: secret\r\nContent-Type: application/json\r\n"
).encode()
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


@contextlib.asynccontextmanager
async def connection(
    coordinator: Coordinator, sent: bytes
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection, and send the first bytes."""
    host, _, port = coordinator.authority.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    try:
        yield reader, writer
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (CHUNKED, b"0\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(300_000))),
        (CHUNKED, b"no chunk\r\n" + bytes(2 * MIB)),
        (WHOLE, HEAD + b"x: " + bytes(2 * MIB)),
    ],
    ids=["trailers", "malformed chunk", "behind a request that runs"],
)
@pytest.mark.parametrize("shared_bytes", [512 * MIB, 256 * KIB])
async def test_bytes_beside_a_body_are_not_kept_in_memory(
    first: bytes, then: bytes, shared_bytes: int
) -> None:
    # aiohttp kept up to 11 MiB for each of 4,096 connections while a request was read or ran.
    settings = replace(SETTINGS, max_request_bytes=128 * KIB, max_held_request_bytes=shared_bytes)
    size = 2 * MIB if shared_bytes > MIB else 512 * KIB
    async with (
        asyncio.timeout(20),
        Coordinator(settings) as coordinator,
        ScriptedAgent(coordinator.connect_url) as agent,
        connection(coordinator, first) as (reader, writer),
    ):
        if first is WHOLE:
            await agent.next_job()
        else:
            assert (await reader.readline()).startswith(b"HTTP/1.1 100 ")
        writer.write(then[:size])
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            await reader.read()
        assert coordinator.open_connections == 1, "the agent"


@on_both_loops
@pytest.mark.parametrize("key", ["secret", "wrong"])
async def test_body_in_tiny_chunks_is_read_in_small_steps(key: str) -> None:
    # One turn of the event loop read 43,000 such chunks and more, which took over 100 ms.
    most_chunks, longest, read = 6000, 0, 0
    loop = asyncio.get_running_loop()
    head = HEAD.replace(b"secret", key.encode()) + b"Transfer-Encoding: chunked\r\n\r\n"
    sent = head + b"1\r\nx\r\n" * 150_000 + b"0\r\n\r\n"

    noting: asyncio.Handle | None = None

    def note_progress() -> None:
        nonlocal longest, read, noting
        bodies = [guarded._body for guarded in coordinator._connections]
        total = sum(body.total_bytes for body in bodies if body is not None)
        longest, read = max(longest, total - read), total
        noting = loop.call_soon(note_progress)

    async with Coordinator(SETTINGS) as coordinator:
        note_progress()
        async with connection(coordinator, sent) as (reader, _):
            with contextlib.suppress(ConnectionError):
                assert (await reader.readline()).startswith(b"HTTP/1.1 4")
                await reader.read(1 if key == "secret" else -1)
        assert noting is not None
        noting.cancel()
    assert 0 < longest < most_chunks


async def test_large_bodies_in_small_chunks_are_read() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield BODY[:-1] + b',"x":"'
        for _ in range(3000):
            yield b"y" * 1000
        yield b'"}'

    async def answer(job: ScriptedJob) -> None:
        await job.answer(b"%d" % len(job.job.request))

    connector = aiohttp.TCPConnector(limit=1)
    async with (
        Coordinator(replace(SETTINGS, max_held_request_bytes=16 * MIB)) as coordinator,
        ScriptedAgent(coordinator.connect_url, answer=answer) as agent,
        aiohttp.ClientSession(
            coordinator.http_url, headers={**JSON_HEADERS, **KEY}, connector=connector
        ) as http,
    ):
        for _ in range(3):
            async with http.post(CHAT, data=body()) as response:
                assert int(await response.text()) > 3_000_000
            large = io.BytesIO(BODY[:-1] + b" " * 10 * MIB + b"}")
            async with http.post(CHAT, data=large) as response:
                assert response.status == 200
        assert len(agent.jobs) == 6
        assert coordinator.open_connections == 2, "the agent's, and one that was reused"


async def test_connection_with_further_requests_during_a_job_ends_with_its_response() -> None:
    # aiohttp kept up to 32 further requests, with headers of 1 MiB each, for each connection.
    async with (
        Coordinator(SETTINGS) as coordinator,
        ScriptedAgent(coordinator.connect_url) as agent,
        connection(coordinator, WHOLE) as (reader, writer),
    ):
        job = await agent.next_job()
        writer.write(WHOLE)
        await writer.drain()
        await agent.settle()
        await job.answer(b"{}")
        assert b"\r\nConnection: close\r\n" in await reader.read()
        assert len(agent.jobs) == 1


@in_virtual_time
@pytest.mark.parametrize("busy", [False, True], ids=["nothing runs", "a job runs"])
async def test_stalled_body_does_not_delay_a_stop(busy: bool) -> None:
    # The drain waited for it, and then aiohttp for 5 s more.
    coordinator = Coordinator(replace(SETTINGS, drain_s=10.0, resume_ms=0), clock=now)
    stalled = HEAD + b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    async with (
        coordinator,
        connection(coordinator, stalled) as (reader, _),
        ScriptedAgent(coordinator.connect_url) as agent,
        connection(coordinator, WHOLE if busy else b"") as (served, _),
    ):
        assert (await reader.readline()).startswith(b"HTTP/1.1 100 ")
        job = await agent.next_job() if busy else None
        began = now()
        stopping = asyncio.create_task(coordinator.stop())
        await reader.readline()
        assert (await reader.readline()).startswith(b"HTTP/1.1 503 ")
        assert now() == began
        if job is not None:
            await job.answer(b"{}")
            assert (await served.readline()).startswith(b"HTTP/1.1 200 ")
        await stopping
        assert now() - began < 1


async def test_slow_bodies_do_not_occupy_the_slots_of_other_requests() -> None:
    # 1,024 bodies of one key that arrived slowly excluded all other requests for a minute.
    stalled = HEAD + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(BODY)
    async with (
        asyncio.timeout(20),
        Coordinator(replace(SETTINGS, max_requests=1)) as coordinator,
        ScriptedAgent(coordinator.connect_url) as agent,
        connection(coordinator, stalled) as (slow, slow_writer),
        connection(coordinator, stalled),
    ):
        assert (await slow.readline()).startswith(b"HTTP/1.1 100 ")
        async with connection(coordinator, WHOLE) as (reader, _):
            job = await agent.next_job()
            # The slow request becomes complete while the only slot is occupied.
            slow_writer.write(BODY)
            await slow.readline()
            assert (await slow.readline()).startswith(b"HTTP/1.1 503 ")
            await job.answer(b"{}")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")


@in_virtual_time
async def test_client_that_does_not_read_does_not_delay_a_stop() -> None:
    # After the drain, aiohttp waited for its handler for 10 s.
    coordinator = Coordinator(replace(SETTINGS, drain_s=1.0, resume_ms=0), clock=now)
    async with (
        coordinator,
        ScriptedAgent(coordinator.connect_url) as agent,
        connection(coordinator, WHOLE) as (_, writer),
    ):
        job = await agent.next_job()
        transport = writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        await job.start()
        sending = asyncio.create_task(job.send(*[bytes(64 * KIB)] * 64))
        await asyncio.sleep(1)
        began = now()
        await coordinator.stop()
        assert now() - began < 1.0 + 2 * LAST_WRITES_S
        sending.cancel()


async def test_bytes_behind_a_chunked_request_are_not_kept_during_its_response() -> None:
    # Regression: the limit ended when the response to a pipelined, chunked request began.
    first = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    async with (
        asyncio.timeout(20),
        Coordinator(SETTINGS) as coordinator,
        ScriptedAgent(coordinator.connect_url) as agent,
        connection(coordinator, first) as (reader, writer),
    ):
        job = await agent.next_job()
        writer.write(HEAD)
        await writer.drain()
        await agent.settle()
        await job.start()
        await job.send(b"data: 1\n\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        with contextlib.suppress(ConnectionError):
            for number in range(300):
                writer.write(b"x%d: " % number + b"y" * 8000 + b"\r\n")
                await writer.drain()
            await reader.read()
        assert coordinator.open_connections == 1, "the agent"


async def test_incomplete_message_after_an_upgrade_is_limited_also_with_a_key() -> None:
    # Regression: each such connection could hold 4 MiB.
    first = b"GET /v1/models HTTP/1.1\r\nHost: a\r\nx-api-key: secret\r\n\r\n"
    async with (
        asyncio.timeout(5),
        Coordinator(SETTINGS) as coordinator,
        connection(coordinator, first) as (reader, writer),
    ):
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.write(UPGRADE)
        await reader.readuntil(b"HTTP/1.1 101 ")
        writer.write(b"\x82\xff" + (3 * MIB).to_bytes(8, "big") + bytes(2 * MIB))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            await reader.read()
        assert coordinator.open_connections == 0
