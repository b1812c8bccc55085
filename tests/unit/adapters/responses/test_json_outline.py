import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.responses.json_outline import (
    MEMBER_BYTES,
    STRING_BYTES,
    JsonOutline,
)

LONG = "x" * STRING_BYTES
TRICKY = 'a"b\\' * STRING_BYTES
USAGE = {"input_tokens": 3, "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 1}}

DEEP: object = ["]", '"']
for _ in range(40):
    DEEP = [[], {"[": DEEP}]

DOCUMENTS: dict[str, tuple[object, object]] = {
    "small": ({"a": [1, {"b": None}], "c": "d"}, {"a": [1, {"b": None}], "c": "d"}),
    "long strings": ({"a": LONG, "b": TRICKY, "c": 1}, {"a": "", "b": "", "c": 1}),
    "a Responses object": (
        {
            "response": {
                "tools": [{"name": "t", "parameters": {"p": i}} for i in range(1000)],
                "usage": USAGE,
                "output": [{"content": [{"text": "x"}] * 1000}],
                "user": TRICKY,
            },
            "type": "response.completed",
        },
        {
            "response": {"tools": "", "usage": USAGE, "output": [""], "user": ""},
            "type": "response.completed",
        },
    ),
    "a choice": (
        {
            "choices": [
                {"index": 0, "delta": {"content": TRICKY}, "finish_reason": "stop"},
                {"index": 1, "logprobs": {"content": [1, 2] * 1000}, "finish_reason": "length"},
            ],
            "usage": USAGE,
        },
        {
            "choices": [
                {"index": 0, "delta": {"content": ""}, "finish_reason": "stop"},
                {"index": 1, "logprobs": "", "finish_reason": "length"},
            ],
            "usage": USAGE,
        },
    ),
    "deep lists": (
        {"a": {"b": [DEEP, [DEEP] * 9], "c": [DEEP, [DEEP] * 99, 1]}, "usage": USAGE},
        {"a": {"b": [DEEP, ""], "c": [DEEP, "", 1]}, "usage": USAGE},
    ),
    "text that looks like usage": (
        {"response": {"output": ['"usage":{"output_tokens":0}' + TRICKY], "usage": USAGE}},
        {"response": {"output": [""], "usage": USAGE}},
    ),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_only_big_values_are_left_out(name: str) -> None:
    document, outline = DOCUMENTS[name]

    kept = JsonOutline().receive_data(msgspec.json.encode(document))

    assert msgspec.json.decode(kept) == outline


@given(
    st.sampled_from(sorted(DOCUMENTS)), st.lists(st.integers(0, 2 * STRING_BYTES)), st.booleans()
)
def test_outline_does_not_depend_on_the_sizes_of_the_pieces(
    name: str, sizes: list[int], bytewise: bool
) -> None:
    rest = msgspec.json.encode(DOCUMENTS[name][0])
    expected, outline, kept = JsonOutline().receive_data(rest), JsonOutline(), b""

    for size in [1] * len(rest) if bytewise else sizes:
        kept += outline.receive_data(rest[:size])
        rest = rest[size:]
        assert len(outline._held) <= MEMBER_BYTES + STRING_BYTES
    kept += outline.receive_data(rest)

    assert kept == expected


@given(st.lists(st.sampled_from([b'"', b"\\", b"{", b"}", b"[", b"]", b"x" * 999]), max_size=40))
def test_malformed_json_raises_nothing(pieces: list[bytes]) -> None:
    outline = JsonOutline()
    for piece in pieces:
        outline.receive_data(piece)


class CountingOutline(JsonOutline):
    """Counts the calls of `_read_plain`, one for each step of the scan."""

    steps = 0

    def _read_plain(self, data: bytes, at: int) -> int:
        self.steps += 1
        return super()._read_plain(data, at)


@pytest.mark.parametrize("text", [b"[" * 10**5, b'[{"b":' * 10**4, b"[" * 10**5 + b"]" * 10**5])
def test_deep_values_need_no_step_for_each_bracket(text: bytes) -> None:
    outline = CountingOutline()

    outline.receive_data(b'{"a":' + text)

    assert outline.steps < 100
