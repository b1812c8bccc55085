"""Builds successful responses in each format, in the shape that the servers send."""

from typing import Final

import msgspec

WORDS: Final = ("Sea", " road", " Größe", " 海", " 🌊", " light", ".")
"""The output of every fake, with UTF-8 characters of one to four bytes."""

INPUT_TOKENS: Final = 21
OUTPUT_TOKENS: Final = len(WORDS)
DONE: Final = b"data: [DONE]\n\n"


def sse(data: object, event: str | None = None) -> bytes:
    """One server-sent event."""
    name = f"event: {event}\n".encode() if event else b""
    return name + b"data: " + msgspec.json.encode(data) + b"\n\n"


def openai_usage() -> dict[str, object]:
    """The usage of chat and legacy completions."""
    return {
        "prompt_tokens": INPUT_TOKENS,
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
        "completion_tokens": OUTPUT_TOKENS,
    }


def chat_chunk(model: str, delta: object, finish: str | None = None, **more: object) -> bytes:
    """One chunk of a chat stream."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    shared = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    return sse({**shared, "choices": [choice], **more})


def usage_chunk(model: str, **more: object) -> bytes:
    """A chunk with usage and without choices."""
    shared = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    return sse({**shared, "choices": [], "usage": openai_usage(), **more})


def chat_frames(model: str, *, usage: bool, first: object = "") -> list[bytes]:
    """A whole chat stream; `first` is the content in the first delta, which has the role."""
    return [
        chat_chunk(model, {"role": "assistant", "content": first}),
        *(chat_chunk(model, {"content": word}) for word in WORDS),
        chat_chunk(model, {}, "stop"),
        *([usage_chunk(model)] if usage else []),
        DONE,
    ]


def chat_body(model: str) -> dict[str, object]:
    """A whole chat completion as JSON."""
    message = {"role": "assistant", "content": "".join(WORDS), "refusal": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": openai_usage(),
    }


def completion_frames(model: str, *, usage: bool) -> list[bytes]:
    """A whole stream of legacy completions."""
    shared = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": model}

    def chunk(text: str, finish: str | None = None) -> bytes:
        return sse({**shared, "choices": [{"index": 0, "text": text, "finish_reason": finish}]})

    last = [sse({**shared, "choices": [], "usage": openai_usage()})] if usage else []
    return [*(chunk(word) for word in WORDS), chunk("", "stop"), *last, DONE]


def completion_body(model: str) -> dict[str, object]:
    """A whole legacy completion as JSON."""
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "text": "".join(WORDS), "finish_reason": "stop"}],
        "usage": openai_usage(),
    }


def embeddings_body(model: str) -> dict[str, object]:
    """One embedding."""
    return {
        "object": "list",
        "model": model,
        "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}],
        "usage": {"prompt_tokens": INPUT_TOKENS, "total_tokens": INPUT_TOKENS},
    }


def response_body(model: str) -> dict[str, object]:
    """A whole Responses object as JSON."""
    text = {"type": "output_text", "text": "".join(WORDS), "annotations": []}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "error": None,
        "model": model,
        "output": [{"type": "message", "id": "msg_1", "role": "assistant", "content": [text]}],
        "usage": {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS},
    }


def response_frames(model: str, last: str = "response.completed") -> list[bytes]:
    """A whole stream of Responses; it has no `[DONE]`.

    Args:
        model: the model name in the response.
        last: the type of the last event; some gateways send `response.done`.
    """
    completed = response_body(model)
    created = {**completed, "status": "in_progress", "output": [], "usage": None}

    def event(name: str, **fields: object) -> bytes:
        return sse({"type": name, **fields}, name)

    return [
        event("response.created", response=created),
        event("response.in_progress", response=created),
        *(event("response.output_text.delta", item_id="msg_1", delta=word) for word in WORDS),
        event(last, response=completed),
    ]


def counted_body() -> dict[str, object]:
    """The response to `count_tokens`."""
    return {"input_tokens": INPUT_TOKENS}


def message_start(model: str, usage: dict[str, int]) -> bytes:
    """The first event of a Messages stream."""
    message: dict[str, object] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": model,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    return sse({"type": "message_start", "message": message}, "message_start")


def text_delta(word: str) -> bytes:
    """A text delta of a Messages stream."""
    delta = {"type": "text_delta", "text": word}
    return sse({"type": "content_block_delta", "index": 0, "delta": delta}, "content_block_delta")


def message_frames(
    model: str,
    *,
    start_usage: dict[str, int] | None = None,
    end_usage: dict[str, int] | None = None,
) -> list[bytes]:
    """A whole Messages stream."""
    block = {"type": "text", "text": ""}
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    final_usage = end_usage or {"output_tokens": OUTPUT_TOKENS}
    return [
        message_start(model, start_usage or {"input_tokens": INPUT_TOKENS, "output_tokens": 0}),
        sse(
            {"type": "content_block_start", "index": 0, "content_block": block},
            "content_block_start",
        ),
        *(text_delta(word) for word in WORDS),
        sse({"type": "content_block_stop", "index": 0}, "content_block_stop"),
        sse({"type": "message_delta", "delta": stop, "usage": final_usage}, "message_delta"),
        sse({"type": "message_stop"}, "message_stop"),
    ]


def message_body(model: str) -> dict[str, object]:
    """A whole Messages response as JSON."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": "".join(WORDS)}],
        "model": model,
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS},
    }
