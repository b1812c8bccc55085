import msgspec
import pytest

from provider_agent.adapters.base import Usage
from provider_agent.adapters.responses.body_validator import LONG_BODY_BYTES, BodyValidator
from provider_agent.adapters.responses.output_size import least_tokens_in_body
from provider_agent.adapters.responses.stream_validator import StreamValidator
from provider_agent.protocol.formats import Operation
from tests.kit.fakes.frames import (
    DONE,
    chat_body,
    chat_chunk,
    completion_frames,
    message_body,
    message_start,
    openai_usage,
    response_body,
    sse,
    text_delta,
    usage_chunk,
)

TOKENS = 3000

STREAMS: dict[str, tuple[Operation, list[bytes]]] = {
    "chat": (
        Operation.CHAT,
        [
            chat_chunk("m", {"role": "assistant", "content": ""}),
            *[chat_chunk("m", {"content": '"delta":"' + "x" * (n % 30)}) for n in range(TOKENS)],
        ],
    ),
    "completions": (Operation.COMPLETIONS, completion_frames("m", usage=False)[:1] * TOKENS),
    "messages": (
        Operation.MESSAGES,
        [message_start("m", {"input_tokens": 3}), *[text_delta("word ")] * TOKENS],
    ),
    "responses": (
        Operation.RESPONSES,
        [
            sse({"type": "response.output_text.delta", "delta": "x"}, "response.output_text.delta"),
        ]
        * TOKENS,
    ),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("tokens", [0, 1, 30, TOKENS])
def test_interrupted_stream_is_estimated_at_about_one_token_per_delta(
    name: str, tokens: int
) -> None:
    operation, frames = STREAMS[name]
    opening = len(frames) - TOKENS
    validator = StreamValidator(operation)
    for frame in frames[: opening + tokens]:
        validator.receive_data(frame)

    least = validator.result().least_output_tokens

    assert tokens * 0.8 - 2 <= least <= tokens * 1.01


def test_reported_usage_of_one_choice_is_not_estimated() -> None:
    validator = StreamValidator(Operation.CHAT)
    for frame in [*STREAMS["chat"][1], chat_chunk("m", {}, "stop"), usage_chunk("m"), DONE]:
        validator.receive_data(frame)

    assert validator.result().least_output_tokens == 0


def test_server_that_counts_one_of_several_choices_does_not_make_the_others_free() -> None:
    # Recorded from llama.cpp, which reports the tokens of one choice, in the middle of the stream.
    choice = [
        chat_chunk("m", {"content": "x"}).replace(b'"index":0', b'"index":%d' % n) for n in (1, 2)
    ]
    last = [chat_chunk("m", {}, "stop").replace(b'"index":0', b'"index":%d' % n) for n in (1, 2)]
    usage = usage_chunk("m", usage={"prompt_tokens": 9, "completion_tokens": 100})
    validator = StreamValidator(Operation.CHAT)
    for frame in [*choice * 100, last[0], usage, last[1], DONE]:
        validator.receive_data(frame)

    result = validator.result()

    assert result.usage == Usage(9, 100)
    assert 190 <= result.least_output_tokens <= 200


def validate(body: dict[str, object]) -> tuple[Usage, int, bool]:
    validator = BodyValidator()
    encoded = msgspec.json.encode(body)
    for at in range(0, len(encoded), 65536):
        validator.receive_data(encoded[at : at + 65536])
    result = validator.result()
    return result.usage, result.least_output_tokens, result.failure is None


@pytest.mark.parametrize("body", [chat_body("m"), message_body("m"), response_body("m")])
def test_json_response_is_estimated_at_one_token_per_eight_characters(
    body: dict[str, object],
) -> None:
    text = "word " * 800
    encoded = msgspec.json.encode(body).replace(b"Sea road", text.encode())

    assert 500 <= least_tokens_in_body(encoded) <= 510


def test_json_response_with_several_choices_is_estimated() -> None:
    choice = {"message": {"content": "word " * 800}, "finish_reason": "stop"}
    body: dict[str, object] = {"choices": [choice, choice], "usage": openai_usage()}

    usage, least, complete = validate(body)

    assert usage == Usage(21, 7)
    assert complete
    assert least == 1000


def test_usage_is_read_from_a_json_response_with_big_values() -> None:
    # In an earlier version, the usage of such a response was unknown.
    logprobs = {"content": [{"token": "x", "top_logprobs": []}] * LONG_BODY_BYTES}
    choice = {"index": 0, "logprobs": logprobs, "finish_reason": "stop"}

    assert validate({"choices": [choice], "usage": openai_usage()}) == (Usage(21, 7), 0, True)
