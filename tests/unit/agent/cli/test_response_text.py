from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.agent.cli.response_text import MAX_LINE_BYTES, ResponseText
from provider_agent.protocol.formats import WireFormat

OPENAI = [
    {"choices": [{"delta": {"role": "assistant", "content": None}}]},
    {"choices": [{"delta": {"reasoning_content": "Hmm. "}}]},
    {"choices": [{"delta": {"content": "The séa "}}]},
    {"choices": [{"delta": {"content": "is 深い\n"}, "finish_reason": None}]},
    {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 1}},
]
ANTHROPIC = [
    {"type": "message_start", "message": {"content": [], "usage": {"input_tokens": 1}}},
    {"type": "content_block_start", "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "Hmm. "}},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "The séa is 深い\n"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
    {"type": "message_stop"},
]
TEXT = "Hmm. The séa is 深い\n"


def stream_of(events: Sequence[object], line_end: bytes = b"\n") -> bytes:
    lines = [b": a comment", b"event: something", b"data: not json"]
    lines += [b"data: " + msgspec.json.encode(event) + line_end for event in events]
    return line_end.join([*lines, b"data: [DONE]", b"", b""])


STREAMS = {WireFormat.OPENAI: stream_of(OPENAI), WireFormat.ANTHROPIC: stream_of(ANTHROPIC)}


@pytest.mark.parametrize("wire_format", WireFormat)
def test_text_of_a_stream_includes_reasoning_and_answer(wire_format: WireFormat) -> None:
    assert ResponseText(wire_format).receive_data(STREAMS[wire_format]) == TEXT


@given(wire_format=st.sampled_from(WireFormat), data=st.data())
def test_any_split_of_a_stream_gives_the_same_text(
    wire_format: WireFormat, data: st.DataObject
) -> None:
    stream = STREAMS[wire_format]
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=40).map(sorted))
    edges = [0, *cuts, len(stream)]
    reader = ResponseText(wire_format)

    pieces = [reader.receive_data(stream[a:b]) for a, b in pairwise(edges)]

    assert "".join(pieces) == TEXT


def test_text_is_returned_when_its_line_is_complete() -> None:
    reader = ResponseText(WireFormat.OPENAI)

    assert reader.receive_data(b'data: {"choices":[{"delta":{"content":"a"}}]}') == ""
    assert reader.receive_data(b"\n") == "a"


def test_lines_may_end_with_carriage_return_and_line_feed() -> None:
    stream = stream_of(OPENAI, b"\r\n")

    assert ResponseText(WireFormat.OPENAI).receive_data(stream) == TEXT


@pytest.mark.parametrize(
    "document", [b"[]", b'{"choices": 1}', b'{"choices":[{"delta":{"content":7}}]}', b"[" * 9000]
)
def test_malformed_event_has_no_text(document: bytes) -> None:
    assert ResponseText(WireFormat.OPENAI).receive_data(b"data: " + document + b"\n") == ""


def test_line_over_the_limit_is_discarded_and_the_next_ones_are_read() -> None:
    reader = ResponseText(WireFormat.OPENAI)
    endless = b"data: " + b"x" * (MAX_LINE_BYTES // 2)

    assert [reader.receive_data(endless) for _ in range(4)] == [""] * 4
    assert reader.receive_data(b"\n" + STREAMS[WireFormat.OPENAI]) == TEXT


def test_rest_of_a_line_that_is_too_long_is_discarded_too() -> None:
    # What followed was read as a line of its own.
    text = ResponseText(WireFormat.OPENAI)
    event = b"data: " + msgspec.json.encode(OPENAI[1])
    assert text.receive_data(b"data: " + b"x" * MAX_LINE_BYTES) == ""
    assert text.receive_data(event + b"\n") == ""
    assert text.receive_data(event + b"\n") == "Hmm. "
