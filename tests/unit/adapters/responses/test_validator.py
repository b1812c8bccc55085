import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.responses.events import Failure, Usage
from provider_agent.adapters.responses.validator import (
    BODY_BYTES,
    HEAD_BYTES,
    TAIL_BYTES,
    WHOLE_TAIL_BYTES,
    BodyValidator,
    StreamValidator,
    Verdict,
    validator_for,
)
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation
from tests.kit.fakes.frames import (
    OUTPUT_TOKENS,
    chat_body,
    chat_frames,
    message_body,
    message_frames,
    message_start,
    sse,
    text_delta,
)
from tests.kit.judged_streams import (
    ALL,
    ANTHROPIC,
    BAD_ANTHROPIC,
    BAD_OPENAI,
    BAD_RESPONSES,
    GOOD_ANTHROPIC,
    GOOD_OPENAI,
    GOOD_RESPONSES,
    OPENAI,
    RESPONSES,
    STREAMS,
    UNKNOWN,
)


def streamed(frames: list[bytes], operation: Operation = OPENAI) -> Verdict:
    inspector = StreamValidator(operation)
    for frame in frames:
        inspector.feed(frame)
    return inspector.verdict()


def whole(body: bytes) -> Verdict:
    inspector = BodyValidator()
    inspector.feed(body)
    return inspector.verdict()


def code_of(failure: Failure | None) -> ErrorCode | None:
    return failure.code if failure else None


# --- streams -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOOD_OPENAI)
def test_a_complete_openai_stream_is_a_success(name: str) -> None:
    frames, usage = GOOD_OPENAI[name]

    assert streamed(frames) == Verdict(usage)


@pytest.mark.parametrize("name", GOOD_ANTHROPIC)
def test_a_complete_anthropic_stream_is_a_success(name: str) -> None:
    frames, usage = GOOD_ANTHROPIC[name]

    assert streamed(frames, ANTHROPIC) == Verdict(usage)


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


@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 2000), max_size=40))
def test_any_cut_gives_the_same_verdict(
    stream: tuple[Operation, list[bytes]], sizes: list[int]
) -> None:
    operation, frames = stream
    inspector, data = StreamValidator(operation), b"".join(frames)

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
    inspector = StreamValidator(OPENAI)

    for _ in range(5 * TAIL_BYTES // piece + 5):
        inspector.feed(b"x" * piece)

    assert len(inspector._head) <= HEAD_BYTES
    assert sum(map(len, inspector._tail)) < TAIL_BYTES + piece


@given(
    st.sampled_from([OPENAI, ANTHROPIC, RESPONSES]),
    st.lists(st.integers(1, 2 * WHOLE_TAIL_BYTES // 3), max_size=12),
)
def test_memory_is_bounded_whatever_the_pieces(operation: Operation, sizes: list[int]) -> None:
    inspector = StreamValidator(operation)
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
    inspector = BodyValidator()
    for _ in range(3):
        inspector.feed(b"x" * (BODY_BYTES // 2))

    assert inspector.verdict() == Verdict(UNKNOWN)


@given(st.lists(st.integers(0, 300), max_size=10))
def test_any_cut_of_a_whole_answer_gives_the_same_verdict(sizes: list[int]) -> None:
    inspector, data = BodyValidator(), msgspec.json.encode(chat_body("m"))

    for size in sizes:
        inspector.feed(data[:size])
        data = data[size:]
    inspector.feed(data)

    assert inspector.verdict() == Verdict(ALL)


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("text/event-stream", StreamValidator),
        ("Text/Event-Stream; charset=utf-8", StreamValidator),
        ("application/json", BodyValidator),
        ("", BodyValidator),
    ],
)
def test_the_content_type_tells_which_it_is(content_type: str, expected: type) -> None:
    assert isinstance(validator_for(OPENAI, content_type), expected)


def test_message_start_is_read_from_a_long_stream() -> None:
    start = message_start("m", {"input_tokens": 42})
    end = message_frames("m")[-2:]

    assert streamed([start, *[text_delta("x" * 100)] * 1000, *end], ANTHROPIC) == Verdict(
        Usage(42, OUTPUT_TOKENS)
    )
