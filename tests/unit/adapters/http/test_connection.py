"""One connection, fed by the test read by read."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator

import pytest

from provider_agent.adapters.errors import InvalidResponse, Transport
from provider_agent.adapters.http.exchange import Exchange
from provider_agent.adapters.http.response_parser import ResponseParser
from tests.kit.raw_server import AfterReply, chunked
from tests.unit.adapters.http.fake_transport import Wire
from tests.unit.adapters.http.recording_receiver import RecordingReceiver
from tests.unit.adapters.http.responses import CASES, CHUNKED, LARGE_CASES, OK, Case

HELLO = OK + b"Content-Length: 5\r\n\r\nhello"


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    with Wire() as created:
        yield created


def run(case: Case, reads: list[bytes]) -> None:
    """Deliver a response in these reads, and compare the outcome."""
    with Wire() as wire:
        receiver = RecordingReceiver()
        exchange = wire.request(receiver)
        for read in reads:
            wire.receive(read)
        if case.then is AfterReply.CLOSE:
            wire.lose(None)
        elif case.then is AfterReply.RESET:
            wire.lose(ConnectionResetError())

        assert exchange.ended.done()
        error = exchange.ended.exception()
        assert type(error) is (case.error or type(None))
        assert receiver.status == case.status
        assert receiver.data == case.body
        assert wire.connection.is_open is case.keeps


@pytest.mark.parametrize("name", CASES)
async def test_outcome_does_not_depend_on_the_split_of_a_response(name: str) -> None:
    data = CASES[name].data

    for at in range(len(data) + 1):
        run(CASES[name], [piece for piece in (data[:at], data[at:]) if piece])
    run(CASES[name], [bytes([byte]) for byte in data])


@pytest.mark.parametrize("name", LARGE_CASES)
@pytest.mark.parametrize("read_bytes", [10, 1000, 65_536])
async def test_heads_and_trailers_are_bounded(name: str, read_bytes: int) -> None:
    case = LARGE_CASES[name]
    reads = [case.data[at : at + read_bytes] for at in range(0, len(case.data), read_bytes)]

    run(case, reads)


async def test_flood_of_informational_responses_is_stopped_early(wire: Wire) -> None:
    receiver = RecordingReceiver()
    exchange = wire.request(receiver)
    sent = 0
    while not exchange.ended.done():
        wire.receive(b"HTTP/1.1 100 Continue\r\n\r\n" * 10)
        sent += 250

    assert sent <= 128 * 1024
    assert isinstance(exchange.ended.exception(), InvalidResponse)


async def test_heads_of_later_responses_are_counted_from_zero(wire: Wire) -> None:
    head = OK + b"X: " + b"x" * 30_000 + b"\r\nContent-Length: 1\r\n\r\n"
    for _ in range(5):
        exchange = wire.request(RecordingReceiver())
        wire.receive(head + b"a")
        assert exchange.ended.exception() is None


async def test_long_stream_is_not_limited(wire: Wire) -> None:
    receiver = RecordingReceiver()
    exchange = wire.request(receiver)
    wire.receive(CHUNKED)
    for _ in range(50):
        wire.receive(chunked(b"x" * 10_000))
    wire.receive(b"0\r\n\r\n")

    assert exchange.ended.exception() is None
    assert len(receiver.data) == 500_000


async def test_chunks_of_one_read_are_passed_on_together(wire: Wire) -> None:
    receiver = RecordingReceiver()
    wire.request(receiver)
    wire.receive(CHUNKED)
    wire.receive(chunked(b"a") + chunked(b"b") + chunked(b"c"))
    assert (receiver.data, receiver.reads) == (b"abc", 1)
    wire.receive(chunked(b"d"))
    assert (receiver.data, receiver.reads) == (b"abcd", 2)


async def test_headers_have_case_insensitive_names_and_keep_their_order(wire: Wire) -> None:
    receiver = RecordingReceiver()
    wire.request(receiver)
    wire.receive(OK + b"X-A: 1\r\nx-b:  2 \r\nX-a: 3\r\nContent-Length: 0\r\n\r\n")

    assert receiver.head is not None
    headers = receiver.head.headers
    assert (headers["x-a"], headers["X-B"], headers.get("x-c")) == ("1", "2", None)
    assert ("X-B" in headers, "x-c" in headers) == (True, False)
    assert list(headers.items()) == [
        ("X-A", "1"),
        ("x-b", "2"),
        ("X-a", "3"),
        ("Content-Length", "0"),
    ]


@pytest.mark.parametrize("data", [b"x", HELLO, b"HTTP/1.1 408 Timeout\r\n\r\n"])
async def test_idle_connection_that_receives_anything_is_closed(wire: Wire, data: bytes) -> None:
    wire.request(RecordingReceiver())
    wire.receive(HELLO)
    assert wire.connection.is_reusable()

    wire.receive(data)

    assert wire.transport.aborted
    assert not wire.connection.is_reusable()


async def test_idle_connection_that_the_server_half_closes_is_closed(wire: Wire) -> None:
    wire.request(RecordingReceiver())
    wire.receive(HELLO)

    wire.lose(None)

    assert not wire.connection.is_open


async def test_connection_with_unread_bytes_in_the_kernel_is_not_reusable(wire: Wire) -> None:
    assert wire.connection.is_reusable()
    wire.server.send(b"x")
    assert not wire.connection.is_reusable()


async def test_connection_that_the_kernel_knows_to_be_closed_is_not_reusable(wire: Wire) -> None:
    wire.server.close()
    assert not wire.connection.is_reusable()


async def test_response_before_the_whole_request_is_sent_closes_the_connection(
    wire: Wire,
) -> None:
    exchange = wire.request(RecordingReceiver())
    wire.transport.unsent = 1
    wire.receive(HELLO)

    assert exchange.ended.exception() is None
    assert wire.transport.aborted


@pytest.mark.parametrize("size", [10, 100_000])
async def test_request_is_written_completely(wire: Wire, size: int) -> None:
    exchange = Exchange(RecordingReceiver())
    wire.connection.start(exchange, b"head", b"x" * size)

    assert wire.transport.written == b"head" + b"x" * size
    wire.connection.cancel(exchange)


# --- flow control ----------------------------------------------------------------------------


async def test_pause_and_resume_can_be_repeated(wire: Wire) -> None:
    receiver = RecordingReceiver()
    wire.request(receiver)
    wire.receive(CHUNKED)
    for _ in range(2):
        receiver.source.pause_reading()
    assert not wire.transport.reading
    for _ in range(2):
        receiver.source.resume_reading()
    assert wire.transport.reading


async def test_connection_paused_by_the_last_read_is_reused_with_reading_resumed(
    wire: Wire,
) -> None:
    receiver = RecordingReceiver(pause_at=1)
    wire.request(receiver)
    wire.receive(HELLO)

    assert receiver.paused.is_set()
    assert wire.transport.reading
    assert wire.connection.is_reusable()


async def test_source_of_an_ended_response_does_not_control_the_next_one(wire: Wire) -> None:
    first, second = RecordingReceiver(), RecordingReceiver()
    wire.request(first)
    wire.receive(HELLO)
    wire.request(second)
    wire.receive(CHUNKED)

    first.source.pause_reading()
    assert wire.transport.reading
    first.source.stop()
    assert wire.connection.is_open


async def test_cancelled_response_that_was_paused_delivers_its_unread_bytes(wire: Wire) -> None:
    receiver = RecordingReceiver(pause_at=1)
    exchange = wire.request(receiver)
    wire.receive(CHUNKED + chunked(b"ab"))
    wire.server.send(chunked(b"cd") + b"0\r\n\r\n")

    wire.connection.cancel(exchange)

    assert (receiver.data, receiver.unread) == (b"ab", b"cd")
    assert wire.transport.aborted


@pytest.mark.parametrize(("end", "is_read"), [(b"", False), (b"0\r\n\r\n", True)])
async def test_much_unread_data_is_parsed_only_if_it_has_the_end(
    wire: Wire, end: bytes, is_read: bool
) -> None:
    receiver = RecordingReceiver(pause_at=1)
    exchange = wire.request(receiver)
    wire.receive(CHUNKED + chunked(b"ab"))
    wire.server.send(chunked(bytes(20_000)) + end)

    wire.connection.cancel(exchange)

    assert bool(receiver.unread) is is_read


async def test_cancelled_response_that_was_not_paused_delivers_nothing_more(wire: Wire) -> None:
    receiver = RecordingReceiver()
    exchange = wire.request(receiver)
    wire.receive(CHUNKED + chunked(b"ab"))
    wire.server.send(chunked(b"cd"))

    wire.connection.cancel(exchange)

    assert receiver.unread == b""
    assert wire.transport.aborted


async def test_stop_ends_the_response_and_closes_the_connection(wire: Wire) -> None:
    receiver = RecordingReceiver()
    exchange = wire.request(receiver)
    wire.receive(CHUNKED + chunked(b"ab"))

    receiver.source.stop()
    receiver.source.stop()

    assert exchange.ended.exception() is None
    assert wire.transport.aborted


async def test_stop_by_the_receiver_drops_the_rest_of_the_read(wire: Wire) -> None:
    class Stopping(RecordingReceiver):
        def response_started(self, *args: object) -> None:
            super().response_started(*args)  # type: ignore[arg-type]
            self.source.stop()

    receiver = Stopping()
    exchange = wire.request(receiver)
    wire.receive(HELLO)

    assert exchange.ended.exception() is None
    assert receiver.data == b""
    assert wire.transport.aborted


@pytest.mark.parametrize("method", ["response_started", "data_received"])
async def test_error_of_the_receiver_ends_the_exchange(
    wire: Wire, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("defect")

    receiver = RecordingReceiver()
    monkeypatch.setattr(receiver, method, fail)
    exchange = wire.request(receiver)
    wire.receive(CHUNKED + chunked(b"ab"))

    assert isinstance(exchange.ended.exception(), KeyError)
    assert wire.transport.aborted


# --- the end ---------------------------------------------------------------------------------


async def test_lost_connection_carries_its_cause(wire: Wire) -> None:
    exchange = wire.request(RecordingReceiver())
    lost = ConnectionResetError()
    wire.lose(lost)

    error = exchange.ended.exception()
    assert isinstance(error, Transport)
    assert error.__cause__ is lost


async def test_end_of_a_cancelled_exchange_is_ignored(wire: Wire) -> None:
    exchange = wire.request(RecordingReceiver())
    exchange.ended.cancel()

    wire.receive(HELLO)

    assert exchange.ended.cancelled()
    assert wire.connection.is_reusable()


async def test_closed_connection_leaves_no_reference_cycle() -> None:
    def parsers() -> int:
        return sum(type(each) is ResponseParser for each in gc.get_objects())

    gc.disable()
    try:
        before = parsers()
        wire = Wire()
        wire.request(RecordingReceiver())
        wire.receive(HELLO)
        assert parsers() == before + 1
        wire.close()
        del wire
        assert parsers() == before
    finally:
        gc.enable()


async def test_ended_exchange_leaves_no_reference_cycle(wire: Wire) -> None:
    # A receiver keeps its source. In an earlier version, this cycle held all objects of each
    # finished job until the cyclic garbage collector ran.
    gc.disable()
    try:
        receiver = RecordingReceiver()
        freed = weakref.ref(receiver)
        exchange = wire.request(receiver)
        wire.receive(HELLO)
        assert exchange.ended.done()
        del receiver, exchange
        assert freed() is None
    finally:
        gc.enable()


async def test_repr_tells_the_state(wire: Wire) -> None:
    receiver = RecordingReceiver()
    states = [repr(wire.connection)]
    wire.request(receiver)
    wire.receive(CHUNKED)
    receiver.source.pause_reading()
    states.append(repr(wire.connection))
    wire.connection.close()
    states.append(repr(wire.connection))
    await asyncio.sleep(0)

    assert states == [
        "<HttpConnection idle>",
        "<HttpConnection busy paused>",
        "<HttpConnection closed paused>",
    ]
