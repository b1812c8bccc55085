import asyncio
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from provider_agent.adapters.base import (
    BackendSettings,
    BackendTimeout,
    ErrorInStream,
    InvalidResponse,
    ResponseOutcome,
    Usage,
)
from provider_agent.adapters.http.reader_flow_control import ReaderFlowControl
from provider_agent.adapters.responses.gate import MAX_HELD_BYTES
from provider_agent.adapters.responses.stream_validator import StreamValidator
from provider_agent.adapters.servers.openai_compatible import OpenAICompatibleBackend
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation
from tests.kit.fakes import (
    FakeOpenAICompatible,
    FakeResponse,
    json_response,
    stream_response,
)
from tests.kit.fakes.frames import (
    DONE,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    chat_chunk,
    chat_frames,
    response_frames,
    sse,
)
from tests.kit.fakes.openai_compatible import MODEL
from tests.kit.raw_server import AfterReply, RawServer
from tests.kit.raw_server import stream as raw_stream
from tests.kit.sink import CollectingSink
from tests.kit.virtual_time import in_virtual_time
from tests.unit.adapters.conftest import Connect, a_job


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenAICompatible]:
    async with FakeOpenAICompatible() as running:
        yield running


async def test_pause_and_resume_can_be_repeated() -> None:
    flow = ReaderFlowControl()
    states = [flow.is_paused]

    flow.pause_reading()
    flow.pause_reading()
    waiting = asyncio.create_task(flow.wait_until_resumed())
    await asyncio.sleep(0)
    states.append(flow.is_paused and not waiting.done())

    flow.resume_reading()
    flow.resume_reading()
    await waiting
    states.append(flow.is_paused)

    assert states == [False, True, False]


async def test_full_window_stops_the_server_and_loses_no_bytes(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    # Far more than the socket buffers can hold.
    chunk = chat_chunk(MODEL, {"content": "x" * 60_000})
    frames = [*chat_frames(MODEL, usage=False)[:1], *[chunk] * 400]
    server.script_jobs(stream_response([*frames, *chat_frames(MODEL, usage=True)[-3:]]))
    sink = CollectingSink(pause_at=100_000)
    running = asyncio.create_task(connect(server).execute(a_job(MODEL), sink))
    await sink.paused.wait()
    recorded = server.jobs[0]
    held, sent = len(sink.data), -1
    while sent != len(recorded.sent):  # the server sends until the socket buffers are full
        sent = len(recorded.sent)
        for _ in range(200):
            await asyncio.sleep(0)

    assert len(sink.data) == held
    assert sent < 400 * len(chunk)

    sink.resume()
    await running

    assert sink.data == recorded.sent
    assert sink.usage == Usage(INPUT_TOKENS, OUTPUT_TOKENS)


@in_virtual_time
async def test_full_window_does_not_count_as_silence() -> None:
    chunk = chat_chunk(MODEL, {"content": "x" * 60_000})
    async with FakeOpenAICompatible() as server:
        server.script_jobs(stream_response([*[chunk] * 400, *chat_frames(MODEL, usage=True)]))
        sink = CollectingSink(pause_at=1)
        backend = OpenAICompatibleBackend(BackendSettings(kind=server.kind, url=server.url))
        running = asyncio.create_task(backend.execute(a_job(MODEL), sink))
        await sink.paused.wait()

        await asyncio.sleep(3 * backend.timeouts.silence_s)
        sink.resume()

        await running
        await backend.close()


async def test_job_with_a_full_window_can_be_cancelled(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    server.script_jobs(stream_response([chat_chunk(MODEL, {"content": "x" * 60_000})] * 400))
    sink = CollectingSink(pause_at=1)
    running = asyncio.create_task(connect(server).execute(a_job(MODEL), sink))
    await sink.paused.wait()

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    await server.jobs[0].disconnected.wait()
    assert sink.outcome is not None


async def test_sink_receives_status_content_type_and_headers(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    response = json_response(
        {"choices": []}, 201, {"Content-Type": "application/json; x=y", "X-Request-Id": "r-1"}
    )
    server.script_jobs(response)
    sink = CollectingSink()

    await connect(server).execute(a_job(MODEL, stream=False), sink)

    assert sink.status == 201
    assert sink.content_type == "application/json; x=y"
    assert sink.headers["x-request-id"] == "r-1"


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b": OPENROUTER PROCESSING\n\n"] * 3,
        [b'event: ping\ndata: {"type":"ping"}\n\n'],
        [DONE],
        [b": wait\n\n", DONE, b": bye\n\n"],
    ],
    ids=["empty", "comments", "pings", "terminal marker", "comments and terminal marker"],
)
async def test_stream_without_output_fails_before_the_sink_is_started(
    server: FakeOpenAICompatible, connect: Connect, frames: list[bytes]
) -> None:
    server.script_jobs(stream_response(frames))
    sink = CollectingSink()

    with pytest.raises(InvalidResponse):
        await connect(server).execute(a_job(MODEL), sink)

    assert sink.status is None


@pytest.mark.parametrize(
    "frames",
    [
        [b'data: {"error":{"code":503}}\n\n', DONE],
        [b": wait\n\n", b'data: {"error":{"code":503}}\n\n'],
        [b'event: error\ndata: {"code":503}\n\n'],
        [b'data: {"error":{"code":503}}'],
    ],
    ids=["terminal marker", "after a comment", "named event", "no final line end"],
)
async def test_error_before_output_fails_before_the_sink_is_started(
    server: FakeOpenAICompatible, connect: Connect, frames: list[bytes]
) -> None:
    server.script_jobs(stream_response(frames))
    sink = CollectingSink()

    with pytest.raises(ErrorInStream) as caught:
        await connect(server).execute(a_job(MODEL), sink)

    assert caught.value.code is ErrorCode.BACKEND_OVERLOADED
    assert sink.status is None


async def test_json_error_with_status_200_fails_before_the_sink_is_started(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    server.script_jobs(json_response({"error": "Model is unloaded."}))
    sink = CollectingSink()

    with pytest.raises(ErrorInStream):
        await connect(server).execute(a_job(MODEL, stream=False), sink)

    assert sink.status is None


async def test_comments_before_the_output_are_relayed(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    server.script_jobs(stream_response([b": wait\n\n", *chat_frames(MODEL, usage=True)]))
    sink = CollectingSink()

    await connect(server).execute(a_job(MODEL), sink)

    assert bytes(sink.data) == bytes(server.jobs[0].sent)


async def test_json_response_above_the_gate_limit_is_relayed_completely(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    pieces = (b'{"choices":[],"x":"' + b"x" * MAX_HELD_BYTES, b"y" * 1000, b'"}')
    server.script_jobs(FakeResponse(pieces))
    sink = CollectingSink(pause_at=1)
    running = asyncio.create_task(connect(server).execute(a_job(MODEL, stream=False), sink))

    await sink.paused.wait()
    sink.resume()

    await running
    assert bytes(sink.data) == b"".join(pieces)


async def test_error_in_a_stream_carries_the_retry_advice(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    advice = {"retryable": False, "retry_after": 7}
    error = {"error": {"code": 429, "message": "busy", "availability": advice}}
    server.script_jobs(stream_response([sse(error)]))

    with pytest.raises(ErrorInStream) as caught:
        await connect(server).execute(a_job(MODEL), CollectingSink())

    assert (caught.value.retryable, caught.value.retry_after_s) == (False, 7.0)


async def test_bytes_before_an_error_in_the_stream_are_relayed(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    frames = [*chat_frames(MODEL, usage=False)[:3], b'data: {"error":{"code":503}}\n\n']
    server.script_jobs(stream_response(frames))
    sink = CollectingSink()

    with pytest.raises(ErrorInStream) as caught:
        await connect(server).execute(a_job(MODEL), sink)

    assert bytes(sink.data) == b"".join(frames)
    assert caught.value.body == b'{"error":{"code":503}}'
    assert sink.outcome == ResponseOutcome(
        Usage(), error_relayed=True, least_input_tokens=1, least_output_tokens=1
    )


@pytest.mark.parametrize(
    ("cut", "between_events"), [(b"", True), (b'data: {"choices"', False), (b"\n", True)]
)
async def test_outcome_of_an_incomplete_response_describes_what_was_relayed(
    server: FakeOpenAICompatible, connect: Connect, cut: bytes, between_events: bool
) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 2}
    chunk = chat_chunk(MODEL, {"content": "a"}, usage=usage)
    server.script_jobs(stream_response([chunk, cut] if cut else [chunk]))
    sink = CollectingSink()

    with pytest.raises(InvalidResponse):
        await connect(server).execute(a_job(MODEL), sink)

    assert sink.data == chunk + cut
    assert sink.outcome == ResponseOutcome(Usage(9, 2), between_events=between_events)


# --- Responses ---------------------------------------------------------------------------------


@in_virtual_time
async def test_job_that_waits_in_the_queue_of_vllm_has_no_output_yet() -> None:
    # In an earlier version, `response.created` counted as output: the job could not fail over, and
    # the silence timeout applied instead of the first-byte timeout.
    frames = response_frames("m")[:2]
    async with RawServer([raw_stream(frames, end=b"", then=AfterReply.HANG)]) as raw:
        backend = OpenAICompatibleBackend(BackendSettings(kind="openai_compatible", url=raw.url))
        sink = CollectingSink()
        job = replace(a_job("m"), operation=Operation.RESPONSES.value, request=b'{"input":"x"}')
        with pytest.raises(BackendTimeout, match="first byte"):
            await backend.execute(job, sink)
        await backend.close()

    assert sink.status is None


@pytest.mark.parametrize("last", ["response.completed", "response.done"])
async def test_whole_stream_of_responses_is_relayed(
    server: FakeOpenAICompatible, connect: Connect, last: str
) -> None:
    frames = response_frames(MODEL, last)
    server.script_jobs(stream_response(frames))
    sink = CollectingSink()
    job = replace(a_job(MODEL), operation=Operation.RESPONSES.value, request=b'{"input":"x"}')

    await connect(server).execute(job, sink)

    assert sink.data == b"".join(frames)
    assert sink.usage == Usage(INPUT_TOKENS, OUTPUT_TOKENS)


async def test_held_start_of_a_response_is_validated_in_pieces(
    server: FakeOpenAICompatible, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    receive_data = StreamValidator.receive_data

    def record(validator: StreamValidator, data: bytes) -> None:
        sizes.append(len(data))
        receive_data(validator, data)

    monkeypatch.setattr(StreamValidator, "receive_data", record)
    created = sse(
        {"type": "response.created", "response": {"tools": "x" * 300_000}}, "response.created"
    )
    server.script_jobs(stream_response([created, *response_frames(MODEL)]))
    job = replace(a_job(MODEL), operation=Operation.RESPONSES.value, request=b'{"input":"x"}')
    sink = CollectingSink()

    await connect(server).execute(job, sink)

    assert max(sizes[:4]) <= 64 * 1024
    assert sum(sizes) == len(sink.data)
