import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.events import Failure, Usage
from adapters.inspector import (
    BODY_BYTES,
    HEAD_BYTES,
    TAIL_BYTES,
    WHOLE_TAIL_BYTES,
    BodyInspector,
    StreamInspector,
    Verdict,
    inspector_for,
)
from protocol.errors import ErrorCode
from protocol.formats import Operation
from tests.kit.fakes import FakeLmStudio, FakeOpenRouter, FakeVenice, FakeVllm
from tests.kit.fakes.frames import (
    DONE,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    chat_body,
    chat_chunk,
    chat_frames,
    message_body,
    message_frames,
    message_start,
    openai_usage,
    sse,
    text_delta,
    usage_chunk,
)

OPENAI, ANTHROPIC, RESPONSES = Operation.CHAT, Operation.MESSAGES, Operation.RESPONSES
ALL = Usage(INPUT_TOKENS, OUTPUT_TOKENS)
UNKNOWN = Usage(None, None)

BARE_ERROR = b'event: error\ndata: {"code":500,"message":"slot died","type":"server_error"}\n\n'


def responses_frames(last: str, text: str = "words") -> list[bytes]:
    """A Responses stream; its last event repeats the whole answer."""
    output = [{"type": "message", "content": [{"type": "output_text", "text": text}]}]
    usage = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
    whole = {"status": last.partition(".")[2], "output": output, "usage": usage}
    return [
        sse({"type": "response.created", "response": {"usage": None}}, "response.created"),
        sse({"type": "response.output_text.delta", "delta": text}, "response.output_text.delta"),
        sse({"type": last, "response": whole}, last),
    ]


def streamed(frames: list[bytes], operation: Operation = OPENAI) -> Verdict:
    inspector = StreamInspector(operation)
    for frame in frames:
        inspector.feed(frame)
    return inspector.verdict()


def whole(body: bytes) -> Verdict:
    inspector = BodyInspector()
    inspector.feed(body)
    return inspector.verdict()


def code_of(failure: Failure | None) -> ErrorCode | None:
    return failure.code if failure else None


# --- streams -------------------------------------------------------------------------------------

GOOD_OPENAI = {
    "with usage": (chat_frames("m", usage=True), ALL),
    "without usage": (chat_frames("m", usage=False), UNKNOWN),
    "comments": ([b": KEEP-ALIVE\n\n", *chat_frames("m", usage=True), b": bye\n\n"], ALL),
    "usage with the reason": (
        [chat_chunk("m", {"content": "a"}, "length", usage={"prompt_tokens": 3}), DONE],
        Usage(3, None),
    ),
    "usage null on each chunk": (
        [
            chat_chunk("m", {"content": "a"}, usage=None),
            chat_chunk("m", {}, "stop", usage=None),
            usage_chunk("m"),
            DONE,
        ],
        ALL,
    ),
    "continuous usage": (
        [
            chat_chunk("m", {"content": "a"}, usage={"prompt_tokens": 9, "completion_tokens": 1}),
            chat_chunk("m", {}, "stop", usage={"prompt_tokens": 9, "completion_tokens": 2}),
            DONE,
        ],
        Usage(9, 2),
    ),
    "carriage returns": (
        [frame.replace(b"\n", b"\r\n") for frame in chat_frames("m", usage=True)],
        ALL,
    ),
    "no space after the colon": (
        [frame.replace(b"data: ", b"data:") for frame in chat_frames("m", usage=True)],
        ALL,
    ),
    "the word error in the text": (
        [chat_chunk("m", {"content": '{"error": "no"}'}), chat_chunk("m", {}, "stop"), DONE],
        UNKNOWN,
    ),
    "error null": ([chat_chunk("m", {}, "stop", error=None), DONE], UNKNOWN),
    "a last delta bigger than the tail": (
        [chat_chunk("m", {"content": "x" * 2 * TAIL_BYTES}, "stop"), DONE],
        UNKNOWN,
    ),
    "a last delta bigger than the tail, then usage": (
        [chat_chunk("m", {"content": "x" * 2 * TAIL_BYTES}, "stop"), usage_chunk("m"), DONE],
        ALL,
    ),
    "usage in a last delta without a reason": (
        [
            chat_chunk("m", {"content": "a"}, "stop"),
            chat_chunk("m", {"content": ""}, usage=openai_usage()),
            DONE,
        ],
        ALL,
    ),
    "long": (
        [*[chat_chunk("m", {"content": "word "})] * 1000, *chat_frames("m", usage=True)],
        ALL,
    ),
    "bytes that are no UTF-8": (
        [b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n', *chat_frames("m", usage=True)],
        ALL,
    ),
    "garbage between": (
        [
            *(b"\x00\xff\n", b"data: ?\n\n", *chat_frames("m", usage=True)[:5]),
            *(b"id: 7\n\n", *chat_frames("m", usage=True)[5:], b"\x00garbage after the end"),
        ],
        ALL,
    ),
    "impossible usage": (
        [
            chat_chunk("m", {}, "stop", usage={"prompt_tokens": -3, "completion_tokens": 10**30}),
            DONE,
        ],
        UNKNOWN,
    ),
    "completions": (
        [
            sse({"object": "text_completion", "choices": [{"text": "a", "finish_reason": None}]}),
            sse({"choices": [{"text": "", "finish_reason": "length"}], "usage": openai_usage()}),
            DONE,
        ],
        ALL,
    ),
}
GOOD_ANTHROPIC = {
    "usual": (message_frames("m"), ALL),
    "estimate, then the truth": (
        message_frames(
            "m",
            start_usage={"input_tokens": 5, "output_tokens": 0},
            end_usage={"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS},
        ),
        ALL,
    ),
    "cached input counts": (
        message_frames(
            "m",
            start_usage={
                "input_tokens": 1,
                "cache_read_input_tokens": INPUT_TOKENS - 3,
                "cache_creation_input_tokens": 2,
                "output_tokens": 0,
            },
        ),
        ALL,
    ),
    "DONE after the end": ([*message_frames("m"), DONE], ALL),
    "pings": ([b'event: ping\ndata: {"type": "ping"}\n\n', *message_frames("m")], ALL),
    "long": (
        [*message_frames("m")[:2], *[text_delta("word ")] * 2000, *message_frames("m")[2:]],
        ALL,
    ),
}


@pytest.mark.parametrize("name", GOOD_OPENAI)
def test_a_complete_openai_stream_is_a_success(name: str) -> None:
    frames, usage = GOOD_OPENAI[name]

    assert streamed(frames) == Verdict(usage)


@pytest.mark.parametrize("name", GOOD_ANTHROPIC)
def test_a_complete_anthropic_stream_is_a_success(name: str) -> None:
    frames, usage = GOOD_ANTHROPIC[name]

    assert streamed(frames, ANTHROPIC) == Verdict(usage)


BAD_OPENAI = {
    "nothing": ([], ErrorCode.INVALID_RESPONSE),
    "only comments": ([b": OPENROUTER PROCESSING\n\n"] * 3, ErrorCode.INVALID_RESPONSE),
    "only the marker": ([DONE], ErrorCode.INVALID_RESPONSE),
    "no marker": (chat_frames("m", usage=True)[:-1], ErrorCode.INVALID_RESPONSE),
    "no reason": ([*chat_frames("m", usage=False)[:3], DONE], ErrorCode.INVALID_RESPONSE),
    "just stops": (chat_frames("m", usage=False)[:3], ErrorCode.INVALID_RESPONSE),
    "cut in the marker": (
        [*chat_frames("m", usage=False)[:-1], b"data: [DO"],
        ErrorCode.INVALID_RESPONSE,
    ),
    "error and marker": (
        list(FakeVllm.admission_refused().chunks),
        ErrorCode.BACKEND_OVERLOADED,
    ),
    "error after tokens": (
        [
            *chat_frames("m", usage=False)[:4],
            sse({"error": {"message": "EngineCore", "code": 500}}),
        ],
        ErrorCode.BACKEND_ERROR,
    ),
    "error with a reason": (
        list(FakeOpenRouter.failed_in_stream(429).chunks),
        ErrorCode.BACKEND_OVERLOADED,
    ),
    "the reason is error": ([chat_chunk("m", {}, "error"), DONE], ErrorCode.BACKEND_ERROR),
    "named event": (
        list(FakeLmStudio.overflow_in_stream().chunks),
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
    ),
    "named event, bare text": ([b"event: error\ndata: oh no\n\n"], ErrorCode.BACKEND_ERROR),
    "error_type": (list(FakeVenice.failed_in_stream().chunks), ErrorCode.BACKEND_ERROR),
    "error as text": ([sse({"error": "unloaded"})], ErrorCode.BACKEND_ERROR),
    "error after the marker": (
        [*chat_frames("m", usage=True), sse({"error": {"code": 500}})],
        ErrorCode.BACKEND_ERROR,
    ),
    "no reason in a long stream": (
        [*[chat_chunk("m", {"content": "word "})] * 1000, DONE],
        ErrorCode.INVALID_RESPONSE,
    ),
    "no marker in a long stream": (
        [*[chat_chunk("m", {"content": "word "})] * 1000, chat_chunk("m", {}, "stop")],
        ErrorCode.INVALID_RESPONSE,
    ),
}
GOOD_RESPONSES = {
    "usual": (responses_frames("response.completed"), ALL),
    "at the token limit": (responses_frames("response.incomplete"), ALL),
    "names left out": (
        [f.partition(b"\n")[2] for f in responses_frames("response.completed")],
        ALL,
    ),
    "marker at the end": ([*responses_frames("response.completed"), DONE], ALL),
    "long": (responses_frames("response.completed", "x" * 25 * TAIL_BYTES), ALL),
}
BAD_RESPONSES = {
    "nothing": ([], ErrorCode.INVALID_RESPONSE),
    "cut": (responses_frames("response.completed")[:-1], ErrorCode.INVALID_RESPONSE),
    "cut in the last event": (
        [b"".join(responses_frames("response.completed"))[:-40]],
        ErrorCode.INVALID_RESPONSE,
    ),
    "failed": (
        [
            *responses_frames("response.completed")[:-1],
            sse({"type": "response.failed", "response": {"error": {"code": "server_error"}}}),
        ],
        ErrorCode.BACKEND_ERROR,
    ),
    "limited": (
        [sse({"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded"}}})],
        ErrorCode.BACKEND_OVERLOADED,
    ),
    "error event": (
        [
            *responses_frames("response.completed")[:2],
            sse({"type": "error", "code": "server_error", "message": "?"}, "error"),
        ],
        ErrorCode.BACKEND_ERROR,
    ),
    "only the marker of chat": ([DONE], ErrorCode.INVALID_RESPONSE),
}
BAD_ANTHROPIC = {
    "nothing": ([], ErrorCode.INVALID_RESPONSE),
    "no message_stop": (message_frames("m")[:-1], ErrorCode.INVALID_RESPONSE),
    "just stops": (message_frames("m")[:4], ErrorCode.INVALID_RESPONSE),
    "only message_stop": (message_frames("m")[-1:], ErrorCode.INVALID_RESPONSE),
    "error event": (
        list(FakeVllm.engine_died_in_messages().chunks),
        ErrorCode.BACKEND_ERROR,
    ),
    "bare error": ([*message_frames("m")[:4], BARE_ERROR], ErrorCode.BACKEND_ERROR),
    "error after the end": ([*message_frames("m")[:-1], BARE_ERROR], ErrorCode.BACKEND_ERROR),
}


@pytest.mark.parametrize("name", BAD_OPENAI)
def test_an_incomplete_or_failed_openai_stream_is_a_failure(name: str) -> None:
    frames, code = BAD_OPENAI[name]

    assert code_of(streamed(frames).failure) is code


@pytest.mark.parametrize("name", GOOD_RESPONSES)
def test_a_complete_responses_stream_is_a_success(name: str) -> None:
    frames, usage = GOOD_RESPONSES[name]

    assert streamed(frames, RESPONSES) == Verdict(usage)


@pytest.mark.parametrize("name", BAD_RESPONSES)
def test_an_incomplete_or_failed_responses_stream_is_a_failure(name: str) -> None:
    frames, code = BAD_RESPONSES[name]

    assert code_of(streamed(frames, RESPONSES).failure) is code


@pytest.mark.parametrize("name", ["with usage", "no space after the colon", "completions"])
def test_completions_end_as_chat_does(name: str) -> None:
    frames, usage = GOOD_OPENAI[name]

    assert streamed(frames, Operation.COMPLETIONS) == Verdict(usage)
    assert streamed(frames[:-1], Operation.COMPLETIONS).failure is not None


@pytest.mark.parametrize("name", BAD_ANTHROPIC)
def test_an_incomplete_or_failed_anthropic_stream_is_a_failure(name: str) -> None:
    frames, code = BAD_ANTHROPIC[name]

    assert code_of(streamed(frames, ANTHROPIC).failure) is code


def test_a_failure_keeps_the_servers_own_words() -> None:
    failure = streamed(
        [*chat_frames("m", usage=False)[:4], sse({"error": {"message": "Oh"}})]
    ).failure

    assert failure is not None
    assert failure.body == b'{"error":{"message":"Oh"}}'


STREAMS = [
    *((OPENAI, frames) for frames, _ in GOOD_OPENAI.values()),
    *((OPENAI, frames) for frames, _ in BAD_OPENAI.values()),
    *((ANTHROPIC, frames) for frames, _ in GOOD_ANTHROPIC.values()),
    *((ANTHROPIC, frames) for frames, _ in BAD_ANTHROPIC.values()),
    *((RESPONSES, frames) for frames, _ in GOOD_RESPONSES.values()),
    *((RESPONSES, frames) for frames, _ in BAD_RESPONSES.values()),
]


@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 2000), max_size=40))
def test_any_cut_gives_the_same_verdict(
    stream: tuple[Operation, list[bytes]], sizes: list[int]
) -> None:
    operation, frames = stream
    inspector, data = StreamInspector(operation), b"".join(frames)

    for size in sizes:
        inspector.feed(data[:size])
        data = data[size:]
    inspector.feed(data)

    assert inspector.verdict() == streamed(frames, operation)


# So short that noise does not push their ends out of the tail.
SHORT_STREAMS = [one for one in STREAMS if len(b"".join(one[1])) < HEAD_BYTES]
NOISE = st.sampled_from([b": keep-alive\n\n", b"\n", b"id: 7\n\n", b"data: \xff?\n\n", b"\x00\n"])


@given(st.data(), st.booleans())
def test_noise_between_events_changes_no_verdict(data: st.DataObject, returns: bool) -> None:
    operation, frames = data.draw(st.sampled_from(SHORT_STREAMS))
    noisy = [
        piece for frame in frames for piece in (*data.draw(st.lists(NOISE, max_size=2)), frame)
    ]
    if returns:
        noisy = [piece.replace(b"\n", b"\r\n") for piece in noisy]

    verdict, usual = streamed(noisy, operation), streamed(frames, operation)

    assert verdict.usage == usual.usage
    assert code_of(verdict.failure) is code_of(usual.failure)


@given(st.sampled_from([OPENAI, ANTHROPIC, RESPONSES]), st.lists(st.binary()))
def test_garbage_is_a_failure_and_no_accident(operation: Operation, pieces: list[bytes]) -> None:
    assert streamed(pieces, operation).failure is not None


@pytest.mark.parametrize("piece", [1, 1000, TAIL_BYTES, 10 * TAIL_BYTES])
def test_memory_is_bounded_however_long_the_stream(piece: int) -> None:
    inspector = StreamInspector(OPENAI)

    for _ in range(5 * TAIL_BYTES // piece + 5):
        inspector.feed(b"x" * piece)

    assert len(inspector._head) <= HEAD_BYTES
    assert sum(map(len, inspector._tail)) < TAIL_BYTES + piece


@given(
    st.sampled_from([OPENAI, ANTHROPIC, RESPONSES]),
    st.lists(st.integers(1, 2 * WHOLE_TAIL_BYTES // 3), max_size=12),
)
def test_memory_is_bounded_whatever_the_pieces(operation: Operation, sizes: list[int]) -> None:
    inspector = StreamInspector(operation)
    block = bytes(max(sizes, default=0))
    tail_bytes = WHOLE_TAIL_BYTES if operation is RESPONSES else TAIL_BYTES

    for size in sizes:
        inspector.feed(block[:size])
        assert sum(map(len, inspector._tail)) < tail_bytes + max(sizes)
        assert len(inspector._head) <= HEAD_BYTES


def test_a_huge_line_is_no_accident() -> None:
    frames = [b"data: " + b"x" * 5_000_000]

    assert code_of(streamed(frames).failure) is ErrorCode.INVALID_RESPONSE
    assert code_of(streamed(frames, ANTHROPIC).failure) is ErrorCode.INVALID_RESPONSE


# --- answers of one piece -------------------------------------------------------------------------


@pytest.mark.parametrize("body", [chat_body("m"), message_body("m")])
def test_a_whole_answer_tells_its_usage(body: dict[str, object]) -> None:
    assert whole(msgspec.json.encode(body)) == Verdict(ALL)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", ErrorCode.INVALID_RESPONSE),
        (b"[]", ErrorCode.INVALID_RESPONSE),
        (b"<html>busy</html>", ErrorCode.INVALID_RESPONSE),
        (b'{"choices":[', ErrorCode.INVALID_RESPONSE),
        (b"[" * 100_000, ErrorCode.INVALID_RESPONSE),
        (b'{"error":"Unexpected endpoint or method."}', ErrorCode.BACKEND_ERROR),
        (b'{"error":{"code":429,"message":"busy"}}', ErrorCode.BACKEND_OVERLOADED),
        (b'{"error":{"code":404,"message":"?"}}', ErrorCode.MODEL_NOT_LOADED),
        (b'{"error":{"code":7,"message":"?"}}', ErrorCode.BACKEND_ERROR),
        (b'{"type":"error","error":{"type":"api_error","message":"?"}}', ErrorCode.BACKEND_ERROR),
        (
            b'{"error":{"message":"exceeds the available context size"}}',
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        ),
    ],
)
def test_an_answer_that_is_none_is_a_failure(body: bytes, code: ErrorCode) -> None:
    assert code_of(whole(body).failure) is code


def test_an_answer_without_usage_leaves_it_unknown() -> None:
    assert whole(b'{"choices":[]}') == Verdict(UNKNOWN)


def test_an_answer_over_the_limit_is_a_success_of_unknown_usage() -> None:
    inspector = BodyInspector()
    for _ in range(3):
        inspector.feed(b"x" * (BODY_BYTES // 2))

    assert inspector.verdict() == Verdict(UNKNOWN)


@given(st.lists(st.integers(0, 300), max_size=10))
def test_any_cut_of_a_whole_answer_gives_the_same_verdict(sizes: list[int]) -> None:
    inspector, data = BodyInspector(), msgspec.json.encode(chat_body("m"))

    for size in sizes:
        inspector.feed(data[:size])
        data = data[size:]
    inspector.feed(data)

    assert inspector.verdict() == Verdict(ALL)


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("text/event-stream", StreamInspector),
        ("Text/Event-Stream; charset=utf-8", StreamInspector),
        ("application/json", BodyInspector),
        ("", BodyInspector),
    ],
)
def test_the_content_type_tells_which_it_is(content_type: str, expected: type) -> None:
    assert isinstance(inspector_for(OPENAI, content_type), expected)


def test_message_start_is_read_from_a_long_stream() -> None:
    start = message_start("m", {"input_tokens": 42})
    end = message_frames("m")[-2:]

    assert streamed([start, *[text_delta("x" * 100)] * 1000, *end], ANTHROPIC) == Verdict(
        Usage(42, OUTPUT_TOKENS)
    )
