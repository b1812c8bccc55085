"""Which slow or stalled clients the coordinator disconnects. Real sockets, virtual time."""

import asyncio

import aiohttp
import pytest
from msgspec.structs import replace

from provider_agent.protocol.limits import KIB, MIB
from tests.kit.coordinator_harness import (
    BODY,
    CHAT,
    NO_HEARTBEATS,
    coordinator_harness,
    warning_events,
)
from tests.kit.virtual_time import in_virtual_time

MUCH = 16 * MIB  # more than fits into the window and the socket buffers of both sides

EOF = b"0\r\n\r\n"

DONE_EVENT = b"data: [DONE]\n\n"

ACKNOWLEDGED_BYTES = 64 * KIB
"""Each piece of this size is acknowledged by itself: a quarter of the window."""


def test_stalled_client_is_disconnected_and_its_job_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @in_virtual_time
    async def run() -> None:
        async with coordinator_harness() as harness:
            job, _ = await harness.start_response(b"x")
            sending = asyncio.create_task(job.send(bytes(MUCH)))
            started_at = asyncio.get_running_loop().time()
            await job.cancelled.wait()
            assert 120 <= asyncio.get_running_loop().time() - started_at < 180
            await sending  # the coordinator discards these bytes
            await job.fail("cancelled")
            assert harness.coordinator.counters.disconnected == 1

    run()
    assert warning_events(caplog.records) == ["stalled client disconnected"]


@pytest.mark.parametrize("leaves", [False, True], ids=["stalled", "leaves"])
def test_final_event_in_the_write_buffer_is_no_complete_response(
    caplog: pytest.LogCaptureFixture, leaves: bool
) -> None:
    # The final event was taken as received as soon as it was written to the transport, although
    # the client had not read for minutes, so that the socket did not accept it.
    settings = replace(NO_HEARTBEATS, window_bytes=4 * ACKNOWLEDGED_BYTES)

    @in_virtual_time
    async def run() -> None:
        async with coordinator_harness(settings) as harness:
            job, response = await harness.start_response(b": start\n\n")
            piece = DONE_EVENT.rjust(ACKNOWLEDGED_BYTES, b"\n")
            while job.stream.acked + len(piece) > job.stream.written:  # until the socket is full
                await job.send(piece)
                await asyncio.sleep(0.1)
            if leaves:
                response.close()
            else:
                while "stalled client disconnected" not in caplog.messages:  # noqa: ASYNC110
                    await asyncio.sleep(1)
            await asyncio.sleep(1)
            await job.finish()
            await job.done.wait()
            counters = harness.coordinator.counters
            assert (counters.completed, counters.disconnected) == (0, 1)

    run()


@pytest.mark.parametrize(
    ("version", "pieces"),
    [("1.0", [b"first", b"second", b""]), ("1.1", [b"5\r\nfirst\r\n", b"6\r\nsecond\r\n", EOF])],
)
async def test_pieces_are_framed_as_the_http_version_demands(
    version: str, pieces: list[bytes]
) -> None:
    async with coordinator_harness() as harness:
        host, _, port = harness.coordinator.authority.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        headers = "Content-Type: application/json\r\nConnection: close"
        head = f"POST {CHAT} HTTP/{version}\r\nHost: a\r\n{headers}"
        writer.write(f"{head}\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY)
        job = await harness.agent.next_job()
        await job.start()
        await job.send(b"first")
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(len(pieces[0])) == pieces[0]
        await job.send(b"second")
        assert await reader.readexactly(len(pieces[1])) == pieces[1]
        await job.finish()
        assert await reader.read() == pieces[2]
        writer.close()
        await writer.wait_closed()


@in_virtual_time
async def test_slow_client_is_not_disconnected() -> None:
    async with coordinator_harness(
        replace(NO_HEARTBEATS, stalled_client_s=100.0, deadline_s=36_000)
    ) as harness:
        job, response = await harness.start_response(b"x")
        sending = asyncio.create_task(job.answer_rest(bytes(MUCH)))
        received = 0
        while received < MUCH:
            received += len(await response.content.read(4 * MIB))
            await asyncio.sleep(25)
        await sending
        assert received == MUCH
        assert harness.coordinator.counters.completed == 1


@in_virtual_time
async def test_client_is_not_disconnected_while_the_agent_is_idle() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.start_response(b"x")
        await asyncio.sleep(500)
        await job.finish()
        assert await response.read() == b""


@in_virtual_time
async def test_blocked_client_is_disconnected_when_its_job_ends_with_slow_consumer() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.start_response(b"x")
        sending = asyncio.create_task(job.send(bytes(MUCH)))
        previous_acked = -1
        while previous_acked != job.stream.acked:  # until all buffers are full
            previous_acked = job.stream.acked
            await asyncio.sleep(1)
        sending.cancel()
        job.stream.drop_unsent()
        before = asyncio.get_running_loop().time()
        await job.fail("slow_consumer")
        await job.done.wait()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
        assert asyncio.get_running_loop().time() - before < 1
        assert harness.coordinator.agents()[0].in_flight == 0


@in_virtual_time
async def test_client_that_reads_receives_the_slow_consumer_error() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.start_response(b"data: 1\n\n")
        await job.fail("slow_consumer", "too slow")
        assert b"did not read the response" in await response.read()
