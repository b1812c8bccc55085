import pytest

from provider_agent.adapters.responses.events import MAX_CHOICES, decode_event, event_failure
from provider_agent.protocol.errors import ErrorCode


@pytest.mark.parametrize(
    "data", [b"", b"[DONE]", b"hello", b"[]", b"7", b"null", b"{", b"[" * 100_000]
)
def test_only_json_objects_are_events(data: bytes) -> None:
    assert decode_event(data) is None


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (b"", b'{"error":{"message":"no"}}'),
        (b"", b'{"error":"no"}'),
        (b"", b'{"error":{}}'),
        (b"", b'{"error_type":"inference_failed","error_message":"no"}'),
        (b"", b'{"error_message":"no"}'),
        (b"", b'{"type":"error"}'),
        (b"", b'{"type":"response.failed","response":{}}'),
        (b"", b'{"choices":[{"finish_reason":null},{"finish_reason":"error"}]}'),
        (b"", b'{"type":"response.done","response":{"status":"failed"}}'),
        (b"response.failed", b"it failed"),
        (b"", b'{"error":{"message":"no"},"message":{"unusual":[1]},"response":7,"usage":"?"}'),
        (b"", b'{"error":{"message":"\xff\xfe"}}'),
        (b"", b'{"type":"\xff\xfe","error":"no"}'),
        (b"error", b"it failed"),
        (b"error", b'{"code":500}'),
        (b"error", b""),
    ],
)
def test_error_is_recognized_in_every_shape(name: bytes, data: bytes) -> None:
    failure = event_failure(name, data)

    assert failure is not None
    assert failure.body == data


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (b"", b"[DONE]"),
        (b"", b"error"),
        (b"", b'{"error":null}'),
        (b"", b'{"error":null,"error_type":null,"error_message":null,"type":null}'),
        (b"", b'{"choices":[{"finish_reason":"stop"}]}'),
        (b"", b'{"choices":[{"delta":{"content":"{\\"error\\":1}"}}]}'),
        (b"message_stop", b'{"type":"message_stop"}'),
        (b"", b'{"type":"response.done","response":{"status":"completed"}}'),
        (b"", b'{"type":"response.output_item.done","item":{"status":"failed"}}'),
    ],
)
def test_other_events_are_not_failures(name: bytes, data: bytes) -> None:
    assert event_failure(name, data) is None


def test_malformed_usage_hides_neither_finish_reason_nor_error() -> None:
    ended = decode_event(b'{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":1e9999}}')

    assert ended is not None
    assert ended.choices is not None
    assert ended.choices[0].finish_reason == "stop"
    failure = event_failure(b"", b'{"error":{"code":503},"usage":"?"}')
    assert failure is not None
    assert failure.code is ErrorCode.BACKEND_OVERLOADED


# --- choices -------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", [b",", b" ,\n"])
@pytest.mark.parametrize("more", [-1, 0, 1, 1000])
def test_choices_are_decoded_up_to_a_limit(more: int, between: bytes) -> None:
    choice = b'{"index":1,"finish_reason":"stop","logprobs":[{"x":"}\xff"}]}'
    body = b'{"choices":[ ' + between.join([choice] * (MAX_CHOICES + more)) + b" ]}"

    event = decode_event(body)

    assert event is not None
    assert event.choices is not None
    assert len(event.choices) == min(MAX_CHOICES, MAX_CHOICES + more)
    assert {choice.finish_reason for choice in event.choices} == {"stop"}


@pytest.mark.parametrize("choices", [b"7", b'"x"', b"{}", b"[7]", b"[" + b"{}," * 9 + b"[]]"])
def test_choices_of_an_unexpected_type_are_no_event(choices: bytes) -> None:
    assert decode_event(b'{"choices":' + choices + b"}") is None
