import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from provider_agent.adapters.requests import prompt_size
from provider_agent.adapters.requests.prompt_size import CHARS_PER_TOKEN, least_prompt_tokens
from provider_agent.protocol.formats import Operation

CHAT = Operation.CHAT
WORDS = "one two three four five"


def chat(content: object, **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content}], **more}


def count(fields: object, operation: Operation = CHAT, enough: int | None = None) -> int:
    request = msgspec.json.encode(fields)
    return least_prompt_tokens(request, operation, len(request) - 1 if enough is None else enough)


@pytest.mark.parametrize(
    ("request_", "operation", "tokens"),
    [
        (chat(WORDS), CHAT, 5),
        (chat(""), CHAT, 0),
        (chat(None), CHAT, 0),
        (chat([{"type": "text", "text": WORDS}, {"type": "text", "text": "six"}]), CHAT, 6),
        (chat(["six", {"type": "text", "text": WORDS}, None]), CHAT, 5),
        (chat("x" * 80), CHAT, 80 // CHARS_PER_TOKEN),
        (chat("海" * 80), CHAT, 80 // CHARS_PER_TOKEN),
        (chat(" " * 10_000), CHAT, 0),
        (chat(WORDS, max_tokens=1_000_000), CHAT, 5),
        (chat(WORDS, model="a b c d e f g", metadata={"note": "a b c"}), CHAT, 5),
        (chat([{"type": "image_url", "image_url": {"url": "data:" + "A" * 9000}}]), CHAT, 0),
        (chat([{"type": "image", "source": {"data": "A" * 9000}}]), Operation.MESSAGES, 0),
        (chat([{"type": "input_audio", "input_audio": {"data": "A" * 9000}}]), CHAT, 0),
        (chat(WORDS, system="be brief now"), Operation.MESSAGES, 8),
        (chat(WORDS, system=[{"type": "text", "text": "be brief"}]), Operation.MESSAGES, 7),
        (
            chat([{"type": "tool_result", "content": [{"type": "text", "text": WORDS}]}]),
            Operation.MESSAGES,
            5,
        ),
        (
            {"messages": [{"tool_calls": [{"function": {"name": "f", "arguments": "a b c"}}]}]},
            CHAT,
            3,
        ),
        (
            chat("hi", tools=[{"type": "function", "function": {"description": "a b c"}}]),
            CHAT,
            4,
        ),
        (
            chat("hi", tools=[{"input_schema": {"properties": {"x": {"description": "a b"}}}}]),
            Operation.MESSAGES,
            1,
        ),
        ({"prompt": WORDS}, Operation.COMPLETIONS, 5),
        ({"prompt": ["a b", WORDS]}, Operation.COMPLETIONS, 5),
        ({"prompt": [1, 2, 3]}, Operation.COMPLETIONS, 0),
        ({"input": ["a b", WORDS, "c"]}, Operation.EMBEDDINGS, 5),
        ({"input": WORDS}, Operation.EMBEDDINGS, 5),
        ({"input": WORDS, "instructions": "be brief"}, Operation.RESPONSES, 7),
        ({"input": [{"role": "user", "content": WORDS}]}, Operation.RESPONSES, 5),
        ({}, CHAT, 0),
        ([], CHAT, 0),
        (chat({"odd": "a b c"}), CHAT, 0),
    ],
)
def test_lower_bound_counts_the_prompt_text_of_each_request_form(
    request_: object, operation: Operation, tokens: int
) -> None:
    assert count(request_, operation) == tokens


def test_request_with_no_more_bytes_than_the_limit_counts_zero_tokens() -> None:
    request = msgspec.json.encode(chat(WORDS))

    assert least_prompt_tokens(request, CHAT, len(request)) == 0
    assert least_prompt_tokens(request, CHAT, len(request) - 1) == 5


def test_counting_stops_above_the_limit() -> None:
    huge = chat("word " * 1_000_000)

    assert 10_000 < count(huge, enough=10_000) < 100_000


@pytest.mark.parametrize("request_", [b"", b"{", b"[1]", b'{"messages":' + b"[" * 100_000])
def test_invalid_request_counts_zero_tokens(request_: bytes) -> None:
    assert least_prompt_tokens(request_, CHAT, -1) == 0


def test_deeply_nested_request_counts_zero_tokens() -> None:
    """No server accepts such a message."""
    content: object = "a b"
    for _ in range(400):
        content = [{"content": content}]

    assert count(chat(content)) == 0


TEXTS = st.text(st.sampled_from('ab é海🌊 \n\t\\"n\u0001'), max_size=200)


@given(st.lists(TEXTS, max_size=5), st.integers(4, 40), st.booleans())
@example(texts=["a\n\n"], slice_bytes=4, ascii_only=False)
@example(texts=["海" * 8], slice_bytes=4, ascii_only=True)
def test_count_is_never_above_that_of_the_decoded_texts(
    texts: list[str], slice_bytes: int, ascii_only: bool
) -> None:
    """With any size of the slices, also those that split a word, a character or an escape."""
    content = [{"type": "text", "text": text} for text in texts]
    request = json.dumps(chat(content), ensure_ascii=ascii_only).encode()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_size, "_SLICE_BYTES", slice_bytes)
        counted = least_prompt_tokens(request, CHAT, 0)

    words = sum(len(text.split()) for text in texts)
    chars = sum(len("".join(text.split())) for text in texts)
    assert counted <= max(words, chars // CHARS_PER_TOKEN)


@given(st.lists(st.text(max_size=200), max_size=20))
def test_text_never_counts_more_tokens_than_characters(texts: list[str]) -> None:
    content = [{"type": "text", "text": text} for text in texts]

    assert 0 <= count(chat(content)) <= sum(map(len, texts))
