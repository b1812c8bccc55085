import re
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from provider_agent.adapters.base import Usage
from provider_agent.adapters.responses import stream_validator
from provider_agent.adapters.responses.events import ResponseFailure
from provider_agent.adapters.responses.stream_validator import (
    HEAD_BYTES,
    LAST_BYTES,
    LONG_LINE_BYTES,
    TAIL_BYTES,
    StreamValidator,
    possible_final_event,
)
from provider_agent.adapters.responses.validation_result import ValidationResult
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation
from tests.kit.fakes.frames import (
    DONE,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    chat_chunk,
    chat_frames,
    completion_frames,
    message_frames,
    message_start,
    response_frames,
    sse,
    text_delta,
)
from tests.kit.sample_streams import (
    ANTHROPIC,
    BAD_ANTHROPIC,
    BAD_OPENAI,
    BAD_RESPONSES,
    BARE_ERROR,
    GOOD_ANTHROPIC,
    GOOD_OPENAI,
    GOOD_RESPONSES,
    KNOWN_USAGE,
    OPENAI,
    RESPONSES,
    STREAMS,
    UNKNOWN_USAGE,
    responses_frames,
    two_choices,
)


def validate_stream(frames: list[bytes], operation: Operation = OPENAI) -> ValidationResult:
    validator = StreamValidator(operation)
    for frame in frames:
        validator.receive_data(frame)
    return validator.result()


def code_of(failure: ResponseFailure | None) -> ErrorCode | None:
    return failure.code if failure else None


GOOD = {
    f"{operation} {name}": (operation, frames, usage)
    for operation, samples in (
        (OPENAI, GOOD_OPENAI),
        (ANTHROPIC, GOOD_ANTHROPIC),
        (RESPONSES, GOOD_RESPONSES),
    )
    for name, (frames, usage) in samples.items()
}


@pytest.mark.parametrize("name", GOOD)
def test_complete_stream_is_a_success(name: str) -> None:
    operation, frames, usage = GOOD[name]

    result = validate_stream(frames, operation)

    assert (result.usage, result.failure, result.error_relayed) == (usage, None, False)


@pytest.mark.parametrize("name", BAD_OPENAI)
def test_incomplete_or_failed_openai_stream_is_a_failure(name: str) -> None:
    frames, code = BAD_OPENAI[name]

    assert code_of(validate_stream(frames).failure) is code


@pytest.mark.parametrize("name", BAD_RESPONSES)
def test_incomplete_or_failed_responses_stream_is_a_failure(name: str) -> None:
    frames, code = BAD_RESPONSES[name]

    assert code_of(validate_stream(frames, RESPONSES).failure) is code


@pytest.mark.parametrize("name", ["with usage", "no space after the colon", "completions"])
def test_completions_end_as_chat_does(name: str) -> None:
    frames, usage = GOOD_OPENAI[name]

    assert validate_stream(frames, Operation.COMPLETIONS).usage == usage
    assert validate_stream(frames, Operation.COMPLETIONS).failure is None
    assert validate_stream(frames[:1], Operation.COMPLETIONS).failure is not None


@pytest.mark.parametrize("name", BAD_ANTHROPIC)
def test_incomplete_or_failed_anthropic_stream_is_a_failure(name: str) -> None:
    frames, code = BAD_ANTHROPIC[name]

    assert code_of(validate_stream(frames, ANTHROPIC).failure) is code


def test_failure_holds_the_error_of_the_server() -> None:
    failure = validate_stream(
        [*chat_frames("m", usage=False)[:4], sse({"error": {"message": "Oh"}})]
    ).failure

    assert failure is not None
    assert failure.body == b'{"error":{"message":"Oh"}}'


@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 2000), max_size=40))
def test_stream_result_does_not_depend_on_chunk_boundaries(
    stream: tuple[Operation, list[bytes]], sizes: list[int]
) -> None:
    operation, frames = stream
    validator, data = StreamValidator(operation), b"".join(frames)

    for size in sizes:
        validator.receive_data(data[:size])
        data = data[size:]
    validator.receive_data(data)

    assert validator.result() == validate_stream(frames, operation)


@pytest.mark.parametrize("size", [1, 100, 1000, 2 * TAIL_BYTES])
def test_long_line_replaces_no_events_before_it(size: int) -> None:
    # What arrived of the line until it was shortened had replaced half of the tail.
    usage = {"prompt_tokens": 9, "completion_tokens": 2}
    before = [chat_chunk("m", {"content": "a"}, usage=usage)]
    while len(b"".join(before)) < TAIL_BYTES * 3 // 4:
        before.append(chat_chunk("m", {"content": "b"}))
    long = chat_chunk("m", {"content": "c" * 2 * LONG_LINE_BYTES}, "stop")
    data = b"".join([*before, long, DONE])
    validator = StreamValidator(OPENAI)

    for at in range(0, len(data), size):
        validator.receive_data(data[at : at + size])

    assert validator.result().usage == Usage(9, 2)


@pytest.mark.parametrize("colon", [b":", b": "], ids=["compact", "with spaces"])
def test_choice_that_ended_long_before_the_stream_is_counted(colon: bytes) -> None:
    # With spaces, the usage of one choice passed for that of the whole stream.
    frames = [two_choices(None, "stop")]
    while len(b"".join(frames)) < 2 * LAST_BYTES:
        frames.append(chat_chunk("m", {"content": "b"}))
    usage = {"prompt_tokens": 9, "completion_tokens": 2}
    frames += [chat_chunk("m", {}, "stop", usage=usage), DONE]
    data = b"".join(frames).replace(b'"index":', b'"index"' + colon)

    assert validate_stream([data]).least_output_tokens > 2


def test_long_line_that_begins_at_the_end_of_a_large_read_replaces_no_events() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 2}
    delta = chat_chunk("m", {"content": "b"})
    before = [delta] * (2 * TAIL_BYTES // len(delta))
    before += [chat_chunk("m", {"content": "a"}, usage=usage)]
    before += [delta] * (TAIL_BYTES * 3 // 4 // len(delta))
    long = chat_chunk("m", {"content": "c" * 2 * LONG_LINE_BYTES}, "stop")
    split = LONG_LINE_BYTES * 7 // 8
    validator = StreamValidator(OPENAI)

    validator.receive_data(b"".join(before) + long[:split])
    validator.receive_data(long[split:] + DONE)

    assert validator.result().usage == Usage(9, 2)


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_many_short_lines_behind_a_long_one_are_not_handled_one_by_one(line_end: bytes) -> None:
    # Each of the 50,000 lines cost two microseconds, and the event loop waited meanwhile.
    validator = StreamValidator(OPENAI)
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += "call" in event

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        validator.receive_data(b"data: " + b"x" * 2 * LONG_LINE_BYTES + line_end * 50_000)
    finally:
        sys.setprofile(before)

    assert calls < 1000


# Streams so short that added noise does not push their last events out of the tail.
SHORT_STREAMS = [stream for stream in STREAMS if len(b"".join(stream[1])) < HEAD_BYTES]
NOISE = st.sampled_from([b": keep-alive\n\n", b"\n", b"id: 7\n\n", b"data: \xff?\n\n", b"\x00\n"])


@given(st.data(), st.booleans())
def test_noise_between_events_does_not_change_the_result(data: st.DataObject, crlf: bool) -> None:
    operation, frames = data.draw(st.sampled_from(SHORT_STREAMS))
    noisy = [
        piece for frame in frames for piece in (*data.draw(st.lists(NOISE, max_size=2)), frame)
    ]
    if crlf:
        noisy = [piece.replace(b"\n", b"\r\n") for piece in noisy]

    result, expected = validate_stream(noisy, operation), validate_stream(frames, operation)

    assert result.usage == expected.usage
    assert code_of(result.failure) is code_of(expected.failure)


@given(st.sampled_from([OPENAI, ANTHROPIC, RESPONSES]), st.lists(st.binary()))
def test_garbage_is_a_failure(operation: Operation, pieces: list[bytes]) -> None:
    assert validate_stream(pieces, operation).failure is not None


@pytest.mark.parametrize("piece", [1, 1000, TAIL_BYTES, 10 * TAIL_BYTES])
def test_memory_is_bounded_for_a_long_stream(piece: int) -> None:
    validator = StreamValidator(OPENAI)

    for _ in range(5 * TAIL_BYTES // piece + 5):
        validator.receive_data(b"x" * piece)

    assert len(validator._head) <= HEAD_BYTES
    assert sum(map(len, validator._tail)) < TAIL_BYTES + piece


@given(
    st.sampled_from([OPENAI, ANTHROPIC, RESPONSES]),
    st.lists(st.integers(1, 2 * TAIL_BYTES), max_size=12),
)
@example(OPENAI, [688, 6993, 512, 6993, 2397, 6993, 6993])
def test_memory_is_bounded_for_any_chunk_sizes(operation: Operation, sizes: list[int]) -> None:
    validator = StreamValidator(operation)
    block = bytes(max(sizes, default=0))
    recent_bytes = stream_validator._RECENT_READS * stream_validator._SMALL_READ_BYTES

    for size in sizes:
        validator.receive_data(block[:size])
        piece_bytes = min(len(block) + recent_bytes, TAIL_BYTES)
        assert sum(map(len, validator._tail)) < TAIL_BYTES + LONG_LINE_BYTES + piece_bytes
        assert sum(map(len, validator._recent)) <= recent_bytes
        assert len(validator._head) <= HEAD_BYTES


def test_huge_line_is_an_invalid_response() -> None:
    frames = [b"data: " + b"x" * 5_000_000]

    assert code_of(validate_stream(frames).failure) is ErrorCode.INVALID_RESPONSE
    assert code_of(validate_stream(frames, ANTHROPIC).failure) is ErrorCode.INVALID_RESPONSE


# --- incomplete streams --------------------------------------------------------------------------

CONTINUOUS_USAGE = [
    chat_chunk("m", {"content": "a"}, usage={"prompt_tokens": 9, "completion_tokens": 1}),
    chat_chunk("m", {"content": "b"}, usage={"prompt_tokens": 9, "completion_tokens": 2}),
]
ERROR = sse({"error": {"code": 500, "message": "?"}})
FAILED = sse(
    {
        "type": "response.failed",
        "response": {"error": {"code": "?"}, "usage": {"input_tokens": 9, "output_tokens": 2}},
    }
)


@pytest.mark.parametrize(
    ("operation", "frames", "usage"),
    [
        (OPENAI, chat_frames("m", usage=True)[:5], UNKNOWN_USAGE),
        (OPENAI, CONTINUOUS_USAGE, Usage(9, 2)),
        (OPENAI, [*CONTINUOUS_USAGE, chat_chunk("m", {})[:-9]], Usage(9, 2)),
        (OPENAI, [*CONTINUOUS_USAGE, ERROR, DONE], Usage(9, 2)),
        (ANTHROPIC, message_frames("m")[:5], Usage(INPUT_TOKENS)),
        (ANTHROPIC, [*message_frames("m")[:-2], BARE_ERROR], Usage(INPUT_TOKENS)),
        (ANTHROPIC, [*message_frames("m")[:-1], BARE_ERROR], KNOWN_USAGE),
        (RESPONSES, responses_frames("response.completed")[:-1], UNKNOWN_USAGE),
        (RESPONSES, [FAILED], Usage(9, 2)),
    ],
)
def test_result_of_a_failed_stream_has_the_usage_reported_so_far(
    operation: Operation, frames: list[bytes], usage: Usage
) -> None:
    result = validate_stream(frames, operation)

    assert result.failure is not None
    assert result.usage == usage


LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(st.data(), LINE_ENDS)
def test_result_shows_whether_a_stream_was_cut_between_events(
    data: st.DataObject, line_end: bytes
) -> None:
    operation, frames = data.draw(st.sampled_from(SHORT_STREAMS))
    whole = b"".join(frames).replace(b"\n", line_end)
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    *_, before, last = (b"", *re.split(rb"\r\n|\n|\r", cut))

    assert validate_stream([cut], operation).between_events == (before == last == b"")


@pytest.mark.parametrize("tail", [b"", b"\n: comment", b"\n\n: comment\n"])
@pytest.mark.parametrize("error", [ERROR[:-2], BARE_ERROR[:-2], FAILED[:-2]])
def test_error_of_the_server_counts_as_relayed_if_its_event_is_complete(
    error: bytes, tail: bytes
) -> None:
    result = validate_stream([chat_chunk("m", {}), error, tail], RESPONSES)

    assert result.failure is not None
    assert result.failure.body.startswith(b'{"')
    assert result.error_relayed == tail.startswith(b"\n\n")


def test_failure_without_an_error_of_the_server_reports_no_relayed_error() -> None:
    assert not validate_stream(chat_frames("m", usage=True)[:3]).error_relayed


def test_message_start_is_read_from_a_long_stream() -> None:
    start = message_start("m", {"input_tokens": 42})
    end = message_frames("m")[-2:]

    result = validate_stream([start, *[text_delta("x" * 100)] * 1000, *end], ANTHROPIC)

    assert (result.usage, result.failure) == (Usage(42, OUTPUT_TOKENS), None)


# --- the final event -----------------------------------------------------------------------------

_OUTPUT = {
    Operation.CHAT: b"".join(chat_frames("m", usage=True)[:-1]),
    Operation.COMPLETIONS: b"".join(completion_frames("m", usage=True)[:-1]),
    Operation.MESSAGES: b"".join(message_frames("m")[:-1]),
    Operation.RESPONSES: b"".join(response_frames("m")[:-1]),
}
_FINAL = {
    Operation.CHAT: DONE,
    Operation.COMPLETIONS: DONE,
    Operation.MESSAGES: message_frames("m")[-1],
    Operation.RESPONSES: response_frames("m")[-1],
}


@pytest.mark.parametrize("operation", _OUTPUT)
def test_stream_is_terminated_exactly_after_its_final_event(operation: Operation) -> None:
    output, final = _OUTPUT[operation], _FINAL[operation]
    for at in range(len(final)):  # each split of the final event
        validator = StreamValidator(operation)
        validator.receive_data(output + final[:at])
        assert not validator.is_terminated()
        validator.receive_data(final[at:])
        assert validator.is_terminated()


@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"])
@pytest.mark.parametrize("operation", _OUTPUT)
def test_final_event_is_found_with_any_line_end(operation: Operation, line_end: bytes) -> None:
    output, final = (text[operation].replace(b"\n", line_end) for text in (_OUTPUT, _FINAL))
    validator = StreamValidator(operation)
    validator.receive_data(output)
    assert not validator.is_terminated()
    validator.receive_data(final)
    assert validator.is_terminated()


def test_only_the_last_event_of_a_running_stream_is_parsed() -> None:
    """When a server stops for a moment, hundreds of streams are checked at once."""
    delta = sse({"type": "response.output_text.delta", "delta": "response.done"})
    stream = StreamValidator(Operation.RESPONSES)
    for _ in range(1000):
        stream.receive_data(delta)

    assert not stream.is_terminated()
    assert possible_final_event(1000 * delta, Operation.RESPONSES).lstrip() == delta.lstrip()


@pytest.mark.parametrize("operation", _OUTPUT)
def test_comment_after_the_final_event_does_not_matter(operation: Operation) -> None:
    validator = StreamValidator(operation)
    validator.receive_data(_OUTPUT[operation] + _FINAL[operation] + b": ping\n\n")
    assert validator.is_terminated()


@pytest.mark.parametrize(
    ("operation", "data"),
    [
        (Operation.CHAT, DONE),
        (Operation.CHAT, sse({"error": {"code": 500}}) + DONE),
        (Operation.CHAT, chat_chunk("m", {"content": "data: [DONE]\n\n"})),
        (Operation.CHAT, _OUTPUT[Operation.CHAT] + DONE + chat_chunk("m", {"content": "more"})),
        (Operation.MESSAGES, text_delta("message_stop")),
        (Operation.RESPONSES, sse({"type": "response.output_text.delta", "delta": "x"})),
    ],
)
def test_stream_without_output_or_with_another_last_event_is_not_terminated(
    operation: Operation, data: bytes
) -> None:
    validator = StreamValidator(operation)
    validator.receive_data(data)
    assert not validator.is_terminated()


def test_long_final_event_of_responses_terminates_the_stream() -> None:
    created, *rest = response_frames("m")
    final = rest[-1].replace(b'"response":{', b'"response":{"tools":"%b",' % (b"x" * 500_000))
    validator = StreamValidator(Operation.RESPONSES)
    for data in (created, *rest[:-1], final[:100_000], final[100_000:]):
        validator.receive_data(data)
    assert validator.is_terminated()
