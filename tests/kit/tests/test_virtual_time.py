"""The virtual clock jumps to the next timer unless the executor or the kernel still has work."""

import asyncio
import socket
import sys
import threading
import time

import pytest

from tests.kit.fault_proxy import HOST
from tests.kit.virtual_time import VirtualTimeLoop, in_virtual_time, now

HOUR_S = 3600.0
SLOW_S = 0.03
"""Real time that a thread sleeps. On Linux, a loop that ignored the thread would meanwhile move its
clock past the test's timeout."""


def connected_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server((HOST, 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    for end in (one, other):
        end.setblocking(False)
    return one, other


def fill(sender: socket.socket) -> int:
    """Write until the kernel accepts no more."""
    sent = 0
    try:
        while True:
            sent += sender.send(bytes(64 * 1024))
    except BlockingIOError:
        return sent


@in_virtual_time
async def test_a_sleep_of_an_hour_takes_no_time() -> None:
    began, real_began = now(), time.monotonic()
    await asyncio.sleep(HOUR_S)
    assert now() == began + HOUR_S
    assert time.monotonic() < real_began + HOUR_S


@in_virtual_time
async def test_the_clock_waits_for_a_thread_of_the_executor() -> None:
    async with asyncio.timeout(HOUR_S):
        await asyncio.to_thread(time.sleep, SLOW_S)


@in_virtual_time
async def test_the_clock_does_not_wait_for_a_cancelled_executor_job() -> None:
    gate = threading.Event()
    asyncio.get_running_loop().run_in_executor(None, gate.wait).cancel()
    try:
        await asyncio.sleep(HOUR_S)
    finally:
        gate.set()


@in_virtual_time
async def test_the_clock_waits_for_a_name_to_be_resolved() -> None:
    async with asyncio.timeout(HOUR_S):
        assert await asyncio.get_running_loop().getaddrinfo("localhost", 80)


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_CORK")
@in_virtual_time
async def test_the_clock_waits_for_bytes_that_the_kernel_holds_back() -> None:
    # The kernel sends an incomplete segment of a corked socket after 200 ms of real time.
    sender, receiver = connected_pair()
    with sender, receiver:
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        sender.send(b"slow")
        async with asyncio.timeout(HOUR_S):
            assert await asyncio.get_running_loop().sock_recv(receiver, 4) == b"slow"


@in_virtual_time
async def test_the_clock_waits_for_a_fin_queued_behind_bytes() -> None:
    sender, receiver = connected_pair()
    loop = asyncio.get_running_loop()
    with sender, receiver:
        began = now()
        sent = fill(sender)
        sender.shutdown(socket.SHUT_WR)
        received = 0
        async with asyncio.timeout(HOUR_S):
            while data := await loop.sock_recv(receiver, 64 * 1024):
                received += len(data)
        assert received == sent
        assert now() == began


@in_virtual_time
async def test_the_clock_waits_for_the_reset_of_a_closed_socket() -> None:
    sender, receiver = connected_pair()
    with receiver:
        receiver.send(b"never read")
        sender.close()
        async with asyncio.timeout(HOUR_S):
            with pytest.raises(ConnectionResetError):
                await asyncio.get_running_loop().sock_recv(receiver, 1)


@in_virtual_time
async def test_the_clock_jumps_while_a_receiver_does_not_read() -> None:
    sender, receiver = connected_pair()
    loop = asyncio.get_running_loop()
    size = 20 * 1024 * 1024
    with sender, receiver:
        sending = asyncio.create_task(loop.sock_sendall(sender, bytes(size)))
        await asyncio.sleep(HOUR_S)
        assert not sending.done()
        received = 0
        async with asyncio.timeout(HOUR_S):
            while received < size:
                received += len(await loop.sock_recv(receiver, 64 * 1024))
        await sending


@in_virtual_time
async def test_the_clock_waits_while_a_receiver_empties_a_full_send_buffer() -> None:
    sender, receiver = connected_pair()
    loop = asyncio.get_running_loop()
    size = 20 * 1024 * 1024

    async def read() -> None:
        received = 0
        while received < size:
            received += len(await loop.sock_recv(receiver, 64 * 1024))

    began = now()
    with sender, receiver:
        async with asyncio.timeout(HOUR_S), asyncio.TaskGroup() as group:
            group.create_task(read())
            group.create_task(loop.sock_sendall(sender, bytes(size)))
        assert now() == began


@in_virtual_time
async def test_the_clock_jumps_while_a_full_accept_queue_drops_a_connection() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server((HOST, 0), backlog=0) as listener, socket.socket() as late:
        queued = socket.create_connection(listener.getsockname())
        late.setblocking(False)
        with queued, pytest.raises(TimeoutError):
            async with asyncio.timeout(HOUR_S):
                await loop.sock_connect(late, listener.getsockname())


@in_virtual_time
async def test_the_clock_jumps_while_no_process_accepts_a_connection() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server((HOST, 0)) as listener:
        waiting = socket.create_connection(listener.getsockname())
        waiting.setblocking(False)
        with waiting, pytest.raises(TimeoutError):
            async with asyncio.timeout(HOUR_S):
                await loop.sock_recv(waiting, 1)


@in_virtual_time
async def test_starting_a_subprocess_raises() -> None:
    assert isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
    with pytest.raises(NotImplementedError, match="real time"):
        await asyncio.create_subprocess_exec("true")
