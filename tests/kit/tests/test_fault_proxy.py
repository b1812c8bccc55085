import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

import pytest
import uvloop

from tests.kit.fault_proxy import HOST, ConnectPolicy, FaultProxy
from tests.kit.fault_proxy_pipe import MAX_QUEUED_BYTES, TICK_S
from tests.kit.proxied_connection import ProxiedConnection, reset_on_close
from tests.kit.virtual_time import VirtualTimeLoop, in_virtual_time, now

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
    "virtual time": VirtualTimeLoop,
}


def on_every_loop(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[str], None]:
    @pytest.mark.parametrize("loop", LOOPS)
    def run(loop: str) -> None:
        with asyncio.Runner(debug=True, loop_factory=LOOPS[loop]) as runner:
            runner.run(_without_leaks(test()))
        gc.collect()  # an open socket emits a ResourceWarning, which pytest turns into an error

    return run


async def _without_leaks(test: Coroutine[None, None, None]) -> None:
    await test
    assert asyncio.all_tasks() == {asyncio.current_task()}


class ProxyHarness(AbstractAsyncContextManager["ProxyHarness"]):
    """A client and a server with a proxy between them."""

    def __init__(
        self, on_connection: Callable[[ProxiedConnection], None] = lambda _connection: None
    ) -> None:
        self.proxy = FaultProxy()
        self.proxy.on_connection = on_connection
        self._writers: list[asyncio.StreamWriter] = []
        self._accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
            asyncio.Queue()
        )

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.proxy.target = self._server.sockets[0].getsockname()[1]
        await self.proxy.__aenter__()
        await self.connect()
        return self

    async def connect(self) -> None:
        self.client_reader, self.client_writer = await asyncio.open_connection(
            HOST, self.proxy.port
        )
        self.connection = await self.proxy.next_connection()
        self.server_reader, self.server_writer = await self._accepted.get()
        self._writers += [self.client_writer, self.server_writer]

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.proxy.__aexit__(kind, error, trace)
        for writer in self._writers:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        self._server.close()
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._accepted.put_nowait((reader, writer))

    async def exchange(self, data: bytes = b"there") -> None:
        """Send bytes in both directions."""
        self.client_writer.write(data)
        assert await self.server_reader.readexactly(len(data)) == data
        self.server_writer.write(b"and back")
        assert await self.client_reader.readexactly(8) == b"and back"


async def run_loop(turns: int = 50) -> None:
    """Let the event loop run callbacks and handle ready sockets."""
    for _ in range(turns):
        await asyncio.sleep(0)


def received_nothing(reader: asyncio.StreamReader) -> bool:
    return "bytes" not in repr(reader) and not reader.at_eof()


@on_every_loop
async def test_bytes_sent_before_the_target_is_connected_arrive() -> None:
    # uvloop reads from a socket before `pause_reading` takes effect. In an earlier version of the
    # proxy, those bytes were lost.
    async with ProxyHarness() as harness:
        for _ in range(10):
            _, writer = await asyncio.open_connection(HOST, harness.proxy.port)
            writer.write(b"at once")
            server_reader, server_writer = await harness._accepted.get()
            harness._writers += [writer, server_writer]
            assert await server_reader.readexactly(7) == b"at once"


@on_every_loop
async def test_proxy_without_faults_forwards_everything_in_both_directions() -> None:
    data = bytes(range(256)) * 8192
    async with ProxyHarness() as harness:
        await harness.exchange()
        harness.client_writer.write(data)
        assert await harness.server_reader.readexactly(len(data)) == data
        harness.server_writer.write(data)
        assert await harness.client_reader.readexactly(len(data)) == data
        assert harness.connection.upstream.forwarded == len(data) + 5


@on_every_loop
async def test_fin_is_forwarded_and_the_other_direction_stays_open() -> None:
    async with ProxyHarness() as harness:
        harness.client_writer.write(b"last words")
        harness.client_writer.write_eof()
        assert await harness.server_reader.read() == b"last words"
        harness.server_writer.write(b"answer")
        harness.server_writer.close()
        assert await harness.client_reader.read() == b"answer"
        await harness.connection.closed.wait()
        assert harness.proxy.connections == []


@on_every_loop
async def test_reset_is_forwarded() -> None:
    async with ProxyHarness() as harness:
        await harness.exchange()
        reset_on_close(harness.client_writer.get_extra_info("socket"))
        harness.client_writer.transport.abort()
        with pytest.raises(ConnectionResetError):
            await harness.server_reader.read()
        await harness.connection.closed.wait()


@on_every_loop
async def test_cut_resets_both_sides() -> None:
    async with ProxyHarness() as harness:
        await harness.exchange()
        harness.proxy.cut()
        for reader in (harness.client_reader, harness.server_reader):
            with pytest.raises(ConnectionResetError):
                await reader.read()
        await harness.connection.closed.wait()


@on_every_loop
async def test_cut_at_a_byte_forwards_exactly_the_bytes_before_it() -> None:
    async with ProxyHarness(lambda connection: connection.upstream.cut_at(7)) as harness:
        harness.client_writer.write(b"0123")
        assert await harness.server_reader.readexactly(4) == b"0123"
        harness.client_writer.write(b"456789")
        assert await harness.server_reader.readexactly(3) == b"456"
        for reader in (harness.client_reader, harness.server_reader):
            with pytest.raises(ConnectionResetError):
                await reader.read()


@on_every_loop
async def test_cut_at_a_byte_works_downstream() -> None:
    async with ProxyHarness(lambda connection: connection.downstream.cut_at(3)) as harness:
        harness.client_writer.write(b"all of it")
        assert await harness.server_reader.readexactly(9) == b"all of it"
        harness.server_writer.write(b"0123456789")
        assert await harness.client_reader.readexactly(3) == b"012"
        with pytest.raises(ConnectionResetError):
            await harness.client_reader.read()


@on_every_loop
async def test_stalled_pipe_forwards_nothing_until_it_resumes() -> None:
    async with ProxyHarness() as harness:
        await harness.exchange()
        harness.connection.upstream.stall()
        harness.client_writer.write(b"held")
        harness.server_writer.write(b"free")
        assert await harness.client_reader.readexactly(4) == b"free"
        await run_loop()
        assert received_nothing(harness.server_reader)
        harness.connection.resume()
        assert await harness.server_reader.readexactly(4) == b"held"


@on_every_loop
async def test_stalled_pipe_reads_little_and_loses_nothing() -> None:
    size = 12 * 1024 * 1024
    async with ProxyHarness() as harness:
        harness.connection.stall()
        harness.client_writer.write(bytes(size))
        await run_loop(500)
        unsent = harness.client_writer.transport.get_write_buffer_size()
        assert unsent > size - 7 * 1024 * 1024, "the proxy has read more than a few kernel buffers"
        harness.connection.resume()
        assert len(await harness.server_reader.readexactly(size)) == size


@on_every_loop
async def test_receiver_that_does_not_read_stops_the_sender() -> None:
    size = 12 * 1024 * 1024
    async with ProxyHarness() as harness:
        harness.server_writer.transport.pause_reading()  # type: ignore[attr-defined]
        harness.client_writer.write(bytes(size))
        await run_loop(2000)
        assert harness.connection.upstream._queued_bytes <= 2 * MAX_QUEUED_BYTES
        assert harness.client_writer.transport.get_write_buffer_size() > size - 7 * 1024 * 1024


@on_every_loop
async def test_blackholed_connection_forwards_no_reset_and_does_not_resume() -> None:
    async with ProxyHarness() as harness:
        await harness.exchange()
        harness.proxy.blackhole()
        harness.client_writer.write(b"into the void")
        harness.server_writer.transport.abort()
        await run_loop()
        assert received_nothing(harness.client_reader), "the reset was forwarded"
        assert not harness.client_writer.transport.is_closing()
        harness.connection.resume()
        await run_loop()
        assert received_nothing(harness.client_reader), "a blackholed connection resumed"
        await harness.connect()
        await harness.exchange()


@on_every_loop
async def test_only_the_corrupted_byte_differs() -> None:
    async with ProxyHarness(lambda connection: connection.upstream.corrupt_at(6, 0x20)) as harness:
        harness.client_writer.write(b"0123")
        assert await harness.server_reader.readexactly(4) == b"0123"
        harness.client_writer.write(b"45abcd")
        assert await harness.server_reader.readexactly(6) == b"45Abcd"
        harness.server_writer.write(b"0123456789")
        assert await harness.client_reader.readexactly(10) == b"0123456789"


@on_every_loop
async def test_half_closed_direction_ends_and_the_other_stays_open() -> None:
    async with ProxyHarness() as harness:
        await harness.exchange()
        harness.connection.downstream.half_close()
        assert await harness.client_reader.read() == b""
        harness.client_writer.write(b"still here")
        assert await harness.server_reader.readexactly(10) == b"still here"
        harness.server_writer.write(b"lost")
        harness.client_writer.close()
        assert await harness.server_reader.read() == b""
        await harness.connection.closed.wait()


@on_every_loop
async def test_connections_are_refused_until_the_proxy_listens_again() -> None:
    async with ProxyHarness() as harness:
        harness.proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(HOST, harness.proxy.port)
        await harness.exchange()
        harness.client_writer.close()
        harness.server_writer.close()
        harness.proxy.listen()
        await harness.connect()
        await harness.exchange()


@on_every_loop
async def test_reset_policy_accepts_a_connection_and_resets_it_after_its_first_byte() -> None:
    async with ProxyHarness() as harness:
        harness.proxy.connect_policy = ConnectPolicy.RESET
        reader, writer = await asyncio.open_connection(HOST, harness.proxy.port)
        await run_loop()
        assert received_nothing(reader)
        writer.write(b"hello")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        assert len(harness.proxy.accepted_at) == 2
        await harness.exchange()


@on_every_loop
async def test_connection_is_reset_when_the_target_refuses() -> None:
    async with FaultProxy() as target, FaultProxy(target.port) as proxy:
        target.refuse()
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


@on_every_loop
async def test_proxy_that_is_stopped_with_queued_bytes_leaves_nothing_open() -> None:
    async with ProxyHarness() as harness:
        await harness.exchange()
        harness.connection.upstream.stall()
        harness.connection.downstream.delay_s = 1000
        harness.client_writer.write(bytes(100_000))
        harness.server_writer.write(b"late")
        await run_loop()
        connection = harness.connection
    assert connection.closed.is_set()


@in_virtual_time
async def test_delay_applies_to_every_byte_and_does_not_limit_bandwidth() -> None:
    async with ProxyHarness() as harness:
        harness.connection.upstream.delay_s = 3.0
        start = now()
        harness.client_writer.write(b"first")
        assert await harness.server_reader.readexactly(5) == b"first"
        assert now() == start + 3.0
        for _ in range(4):
            harness.client_writer.write(bytes(1000))
            await asyncio.sleep(0.5)
        await harness.server_reader.readexactly(4000)
        assert now() == start + 3.0 + 1.5 + 3.0, "the bytes were delayed one after the other"
        harness.server_writer.write(b"x")
        await harness.client_reader.readexactly(1)
        assert now() == start + 7.5, "the other direction was delayed"


@in_virtual_time
async def test_throttled_pipe_forwards_the_configured_bytes_per_second() -> None:
    async with ProxyHarness() as harness:
        harness.connection.downstream.bytes_per_s = 1000
        start = now()
        harness.server_writer.write(bytes(5000))
        await harness.client_reader.readexactly(5000)
        assert 5.0 - 2 * TICK_S <= now() - start <= 5.0, "the rate is not the configured one"
        harness.connection.downstream.bytes_per_s = None
        harness.server_writer.write(bytes(100_000))
        await harness.client_reader.readexactly(100_000)
        assert now() - start <= 5.0 + TICK_S
