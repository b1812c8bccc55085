import asyncio
from collections.abc import AsyncIterator

import pytest

from adapters.base import ErrorInStream, InvalidResponse, TimeoutSettings
from adapters.relay import ReadGate
from tests.kit.fakes import FakeOpenAICompatible, json_answer, stream_answer
from tests.kit.fakes.frames import INPUT_TOKENS, OUTPUT_TOKENS, chat_chunk, chat_frames
from tests.kit.fakes.openai_compatible import MODEL
from tests.kit.sink import CollectingSink
from tests.unit.adapters.conftest import Connect, a_job


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenAICompatible]:
    async with FakeOpenAICompatible() as running:
        yield running


async def test_a_gate_opens_and_closes_any_number_of_times() -> None:
    gate = ReadGate()
    states = [gate.is_open]

    gate.pause_reading()
    gate.pause_reading()
    waiting = asyncio.create_task(gate.wait())
    await asyncio.sleep(0)
    states.append(gate.is_open or waiting.done())

    gate.resume_reading()
    gate.resume_reading()
    await waiting
    states.append(gate.is_open)

    assert states == [True, False, True]


async def test_a_full_window_stops_the_server_and_loses_nothing(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    # Far more than the sockets between them can hold.
    word = chat_chunk(MODEL, {"content": "x" * 60_000})
    frames = [*chat_frames(MODEL, usage=False)[:1], *[word] * 400]
    server.next_job(stream_answer([*frames, *chat_frames(MODEL, usage=True)[-3:]]))
    sink = CollectingSink(pause_at=100_000)
    running = asyncio.create_task(connect(server).execute(a_job(MODEL), sink))
    await sink.paused.wait()
    exchange = server.jobs[0]
    held, sent = len(sink.data), -1
    while sent != len(exchange.sent):  # the server goes on until the sockets are full
        sent = len(exchange.sent)
        for _ in range(200):
            await asyncio.sleep(0)

    assert len(sink.data) == held
    assert sent < 400 * len(word)

    sink.resume()
    result = await running

    assert sink.data == exchange.sent
    assert result.total_bytes == len(sink.data)
    assert (result.input_tokens, result.output_tokens) == (INPUT_TOKENS, OUTPUT_TOKENS)


async def test_a_full_window_is_not_the_servers_silence(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    word = chat_chunk(MODEL, {"content": "x" * 60_000})
    server.next_job(stream_answer([*[word] * 400, *chat_frames(MODEL, usage=True)]))
    sink = CollectingSink(pause_at=1)
    backend = connect(server, timeouts=TimeoutSettings(silence_s=0.05))
    running = asyncio.create_task(backend.execute(a_job(MODEL), sink))
    await sink.paused.wait()

    await asyncio.sleep(0.1)  # longer than the clock allows: only time itself can be waited for
    sink.resume()

    assert (await running).total_bytes == len(sink.data)


async def test_a_job_can_be_cancelled_while_its_window_is_full(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    server.next_job(stream_answer([chat_chunk(MODEL, {"content": "x" * 60_000})] * 400))
    sink = CollectingSink(pause_at=1)
    running = asyncio.create_task(connect(server).execute(a_job(MODEL), sink))
    await sink.paused.wait()

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    async with asyncio.timeout(5):
        await server.jobs[0].disconnected.wait()


async def test_the_status_and_type_of_the_response_come_first(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    answer = json_answer({"choices": []}, 201, {"Content-Type": "application/json; x=" + "y" * 999})
    server.next_job(answer)
    sink = CollectingSink()

    await connect(server).execute(a_job(MODEL, stream=False), sink)

    assert sink.status == 201
    assert sink.content_type.startswith("application/json; x=y")
    assert len(sink.content_type) <= 512


async def test_times_are_whole_milliseconds_since_the_start(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    result = await connect(server).execute(a_job(MODEL), CollectingSink())

    assert result.first_byte_ms is not None
    assert 0 <= result.first_byte_ms <= result.duration_ms


async def test_an_empty_answer_started_and_has_failed(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    server.next_job(stream_answer([]))
    sink = CollectingSink()

    with pytest.raises(InvalidResponse, match="empty stream"):
        await connect(server).execute(a_job(MODEL), sink)

    assert sink.status == 200
    assert sink.data == b""


async def test_bytes_before_an_error_in_the_stream_have_been_relayed(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    frames = [*chat_frames(MODEL, usage=False)[:3], b'data: {"error":{"code":503}}\n\n']
    server.next_job(stream_answer(frames))
    sink = CollectingSink()

    with pytest.raises(ErrorInStream) as caught:
        await connect(server).execute(a_job(MODEL), sink)

    assert bytes(sink.data) == b"".join(frames)
    assert caught.value.body == b'{"error":{"code":503}}'
