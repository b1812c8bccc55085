import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

import pytest
import uvloop

from tests.kit.fault_proxy import HOST, Arrival, FaultProxy
from tests.kit.fault_proxy_pipe import HELD_BYTES, TICK_S
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
        gc.collect()  # a socket left open warns, and warnings are errors

    return run


async def _without_leaks(test: Coroutine[None, None, None]) -> None:
    await test
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Call(AbstractAsyncContextManager["Call"]):
    """A dialler and a listener with a proxy between them."""

    def __init__(
        self, prepare: Callable[[ProxiedConnection], None] = lambda _connection: None
    ) -> None:
        self.proxy = FaultProxy()
        self.proxy.prepare = prepare
        self._writers: list[asyncio.StreamWriter] = []
        self._answered: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
            asyncio.Queue()
        )

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, HOST, 0)
        self.proxy.target = self._server.sockets[0].getsockname()[1]
        await self.proxy.__aenter__()
        await self.dial()
        return self

    async def dial(self) -> None:
        self.near_reader, self.near = await asyncio.open_connection(HOST, self.proxy.port)
        self.connection = await self.proxy.next_connection()
        self.far_reader, self.far = await self._answered.get()
        self._writers += [self.near, self.far]

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

    def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._answered.put_nowait((reader, writer))

    async def exchange(self, data: bytes = b"there") -> None:
        """Both directions work."""
        self.near.write(data)
        assert await self.far_reader.readexactly(len(data)) == data
        self.far.write(b"and back")
        assert await self.near_reader.readexactly(8) == b"and back"


async def turns(count: int = 50) -> None:
    """Time for everything that needs none."""
    for _ in range(count):
        await asyncio.sleep(0)


def nothing_came(reader: asyncio.StreamReader) -> bool:
    return "bytes" not in repr(reader) and not reader.at_eof()


@on_every_loop
async def test_what_is_said_before_the_other_side_is_reached_arrives() -> None:
    # uvloop reads from a socket before the proxy can tell it not to; those bytes were lost.
    async with Call() as call:
        for _ in range(10):
            _, writer = await asyncio.open_connection(HOST, call.proxy.port)
            writer.write(b"at once")
            far_reader, far = await call._answered.get()
            call._writers += [writer, far]
            assert await far_reader.readexactly(7) == b"at once"


@on_every_loop
async def test_an_unharmed_proxy_carries_everything_in_both_directions() -> None:
    data = bytes(range(256)) * 8192
    async with Call() as call:
        await call.exchange()
        call.near.write(data)
        assert await call.far_reader.readexactly(len(data)) == data
        call.far.write(data)
        assert await call.near_reader.readexactly(len(data)) == data
        assert call.connection.out.passed == len(data) + 5


@on_every_loop
async def test_an_end_is_passed_on_and_the_other_direction_goes_on() -> None:
    async with Call() as call:
        call.near.write(b"last words")
        call.near.write_eof()
        assert await call.far_reader.read() == b"last words"
        call.far.write(b"answer")
        call.far.close()
        assert await call.near_reader.read() == b"answer"
        await call.connection.closed.wait()
        assert call.proxy.connections == []


@on_every_loop
async def test_a_reset_is_passed_on() -> None:
    async with Call() as call:
        await call.exchange()
        reset_on_close(call.near.get_extra_info("socket"))
        call.near.transport.abort()
        with pytest.raises(ConnectionResetError):
            await call.far_reader.read()
        await call.connection.closed.wait()


@on_every_loop
async def test_a_cut_resets_both_ends() -> None:
    async with Call() as call:
        await call.exchange()
        call.proxy.cut()
        for reader in (call.near_reader, call.far_reader):
            with pytest.raises(ConnectionResetError):
                await reader.read()
        await call.connection.closed.wait()


@on_every_loop
async def test_a_cut_at_a_byte_lets_exactly_the_bytes_before_it_pass() -> None:
    async with Call(lambda connection: connection.out.cut_at(7)) as call:
        call.near.write(b"0123")
        assert await call.far_reader.readexactly(4) == b"0123"
        call.near.write(b"456789")
        assert await call.far_reader.readexactly(3) == b"456"
        for reader in (call.near_reader, call.far_reader):
            with pytest.raises(ConnectionResetError):
                await reader.read()


@on_every_loop
async def test_a_cut_at_a_byte_of_the_other_direction() -> None:
    async with Call(lambda connection: connection.back.cut_at(3)) as call:
        call.near.write(b"all of it")
        assert await call.far_reader.readexactly(9) == b"all of it"
        call.far.write(b"0123456789")
        assert await call.near_reader.readexactly(3) == b"012"
        with pytest.raises(ConnectionResetError):
            await call.near_reader.read()


@on_every_loop
async def test_a_stalled_wire_holds_its_bytes_back_until_it_goes_on() -> None:
    async with Call() as call:
        await call.exchange()
        call.connection.out.stall()
        call.near.write(b"held")
        call.far.write(b"free")
        assert await call.near_reader.readexactly(4) == b"free"
        await turns()
        assert nothing_came(call.far_reader)
        call.connection.resume()
        assert await call.far_reader.readexactly(4) == b"held"


@on_every_loop
async def test_a_stalled_wire_takes_in_little_and_loses_nothing() -> None:
    size = 12 * 1024 * 1024
    async with Call() as call:
        call.connection.stall()
        call.near.write(bytes(size))
        await turns(500)
        unsent = call.near.transport.get_write_buffer_size()
        assert unsent > size - 7 * 1024 * 1024, "the kernel has some, the proxy next to nothing"
        call.connection.resume()
        assert len(await call.far_reader.readexactly(size)) == size


@on_every_loop
async def test_a_receiver_that_does_not_read_stops_the_sender() -> None:
    size = 12 * 1024 * 1024
    async with Call() as call:
        call.far.transport.pause_reading()  # type: ignore[attr-defined]
        call.near.write(bytes(size))
        await turns(2000)
        assert call.connection.out._held <= 2 * HELD_BYTES
        assert call.near.transport.get_write_buffer_size() > size - 7 * 1024 * 1024


@on_every_loop
async def test_a_vanished_connection_is_silent_and_open_at_both_ends() -> None:
    async with Call() as call:
        await call.exchange()
        call.proxy.vanish()
        call.near.write(b"into the void")
        call.far.transport.abort()
        await turns()
        assert nothing_came(call.near_reader), "not even that the other end is gone"
        assert not call.near.transport.is_closing()
        call.connection.resume()
        await turns()
        assert nothing_came(call.near_reader), "it never comes back"
        await call.dial()
        await call.exchange()


@on_every_loop
async def test_a_corrupted_byte_differs_and_all_others_do_not() -> None:
    async with Call(lambda connection: connection.out.corrupt_at(6, 0x20)) as call:
        call.near.write(b"0123")
        assert await call.far_reader.readexactly(4) == b"0123"
        call.near.write(b"45abcd")
        assert await call.far_reader.readexactly(6) == b"45Abcd"
        call.far.write(b"0123456789")
        assert await call.near_reader.readexactly(10) == b"0123456789"


@on_every_loop
async def test_a_half_closed_direction_ends_and_the_other_goes_on() -> None:
    async with Call() as call:
        await call.exchange()
        call.connection.back.half_close()
        assert await call.near_reader.read() == b""
        call.near.write(b"still here")
        assert await call.far_reader.readexactly(10) == b"still here"
        call.far.write(b"lost")
        call.near.close()
        assert await call.far_reader.read() == b""
        await call.connection.closed.wait()


@on_every_loop
async def test_refused_diallers_find_nobody_at_the_port_until_it_listens_again() -> None:
    async with Call() as call:
        call.proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(HOST, call.proxy.port)
        await call.exchange()
        call.near.close()
        call.far.close()
        call.proxy.listen()
        await call.dial()
        await call.exchange()


@on_every_loop
async def test_dropped_diallers_are_accepted_and_reset() -> None:
    async with Call() as call:
        call.proxy.arrival = Arrival.DROP
        reader, writer = await asyncio.open_connection(HOST, call.proxy.port)
        await turns()
        assert nothing_came(reader)
        writer.write(b"hello")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        assert len(call.proxy.dialled_at) == 2
        await call.exchange()


@on_every_loop
async def test_a_dialler_is_reset_when_the_target_is_not_there() -> None:
    async with FaultProxy() as nobody, FaultProxy(nobody.port) as proxy:
        nobody.refuse()
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


@on_every_loop
async def test_nothing_is_left_of_a_proxy_that_ends_in_use() -> None:
    async with Call() as call:
        await call.exchange()
        call.connection.out.stall()
        call.connection.back.delay_s = 1000
        call.near.write(bytes(100_000))
        call.far.write(b"late")
        await turns()
        connection = call.connection
    assert connection.closed.is_set()


@in_virtual_time
async def test_a_delayed_wire_delays_every_byte_and_limits_nothing() -> None:
    async with Call() as call:
        call.connection.out.delay_s = 3.0
        began = now()
        call.near.write(b"first")
        assert await call.far_reader.readexactly(5) == b"first"
        assert now() == began + 3.0
        for _ in range(4):
            call.near.write(bytes(1000))
            await asyncio.sleep(0.5)
        await call.far_reader.readexactly(4000)
        assert now() == began + 3.0 + 1.5 + 3.0, "they were under way at the same time"
        call.far.write(b"x")
        await call.near_reader.readexactly(1)
        assert now() == began + 7.5, "the other direction is as fast as ever"


@in_virtual_time
async def test_a_throttled_wire_passes_so_many_bytes_a_second() -> None:
    async with Call() as call:
        call.connection.back.bytes_per_s = 1000
        began = now()
        call.far.write(bytes(5000))
        await call.near_reader.readexactly(5000)
        assert 5.0 - 2 * TICK_S <= now() - began <= 5.0, "the last piece is not waited for"
        call.connection.back.bytes_per_s = None
        call.far.write(bytes(100_000))
        await call.near_reader.readexactly(100_000)
        assert now() - began <= 5.0 + TICK_S
