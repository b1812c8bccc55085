import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.responses.events import (
    decode_event,
    event_failure,
    parse_events,
)
from provider_agent.protocol.errors import ErrorCode

# --- events in bytes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"", []),
        (b": comment\n\n", []),
        (b"data: a\n\n", [(b"", b"a")]),
        (b"data:a\r\n\r\ndata:  b  \r\n", [(b"", b"a"), (b"", b"b")]),
        (b"event: x\ndata: a\n\ndata: b\n\n", [(b"x", b"a"), (b"", b"b")]),
        (b"event: x\n: between\nid: 7\ndata: a\n", [(b"x", b"a")]),
        (b"event: x\ndata: a\ndata: b\n", [(b"x", b"a"), (b"x", b"b")]),
        (b"data: a\ndata: cut", [(b"", b"a"), (b"", b"cut")]),
        (b"data\n\n", [(b"", b"")]),
        (b"database: no\n", []),
    ],
)
def test_data_lines_are_parsed_with_their_event_names(
    data: bytes, events: list[tuple[bytes, bytes]]
) -> None:
    assert list(parse_events(data)) == events


@given(st.binary())
def test_arbitrary_bytes_raise_nothing(data: bytes) -> None:
    for name, value in parse_events(data):
        decode_event(value)
        event_failure(name, value)


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
        (b"", b'{"choices":[{"finish_reason":"error"}]}'),
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
    ],
)
def test_other_events_are_not_failures(name: bytes, data: bytes) -> None:
    assert event_failure(name, data) is None


def test_first_finish_reason_of_the_choices_is_used() -> None:
    event = decode_event(b'{"choices":[{},{"finish_reason":null},{"finish_reason":"length"}]}')

    assert event is not None
    assert event.finish_reason == "length"


def test_malformed_usage_hides_neither_finish_reason_nor_error() -> None:
    ended = decode_event(b'{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":1e9999}}')

    assert ended is not None
    assert ended.finish_reason == "stop"
    failure = event_failure(b"", b'{"error":{"code":503},"usage":"?"}')
    assert failure is not None
    assert failure.code is ErrorCode.BACKEND_OVERLOADED
