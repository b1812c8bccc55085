"""How many tokens a request's prompt has at the very least. Pure.

For servers that cut what does not fit and answer as if nothing had happened. The estimate is low on
purpose: a prompt that might fit is never refused. It rests on two things that hold for the
tokenizers of today's models, whatever the language: a token does not reach over white space, so
there are at least as many tokens as words; and on the average of a long text a token has fewer than
eight characters. Only text that surely reaches the model is counted: messages, system prompts, tool
calls, descriptions of tools. Roles, templates, schemas, images and other data come on top. So does
the answer: `max_tokens` is an upper limit that most answers never reach.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from provider_agent.protocol.formats import Operation

CHARS_PER_TOKEN: Final = 8
"""English has about four, German about five, Chinese between one and two."""

_SLICE_CHARS: Final = 64 * 1024
"""Of a huge text only as many slices are counted as it takes to know that it is too long."""

_TEXT_FIELDS: Final = frozenset(
    {"content", "text", "input", "arguments", "thinking", "description", "output", "summary"}
)
"""Fields of messages, their parts, and tools that hold text at any depth."""

_NESTED_FIELDS: Final = _TEXT_FIELDS | {
    *("function", "tool_calls", "parameters", "input_schema", "properties", "items"),
}


class _Request(msgspec.Struct):
    messages: object = None
    system: object = None
    instructions: object = None
    input: object = None
    prompt: object = None
    tools: object = None


def least_prompt_tokens(request: bytes, operation: Operation, enough: int) -> int:
    """A lower bound of the tokens of a request's prompt.

    Args:
        request: one JSON object; anything else is the server's to refuse and counts nothing.
        operation: which operation it is for.
        enough: counting stops above it, so that a huge request costs no more than a big one.
    """
    if len(request) <= enough:
        return 0  # a token has at least one byte
    try:
        fields = msgspec.json.decode(request, type=_Request)
    except (ValueError, RecursionError):
        return 0
    if operation in (Operation.EMBEDDINGS, Operation.COMPLETIONS):
        # Each text of a list is a prompt of its own.
        field = fields.input if operation is Operation.EMBEDDINGS else fields.prompt
        prompts = field if isinstance(field, list) else [field]
        return max((_least_tokens([prompt], enough) for prompt in prompts), default=0)
    found = [fields.messages, fields.system, fields.instructions, fields.input, fields.tools]
    return _least_tokens(_texts(found), enough)


def _texts(found: list[object]) -> Iterator[str]:
    """Every text in the known fields; without recursion, because a client chooses the depth."""
    waiting = list(found)
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            for name, inner in value.items():
                if name in _TEXT_FIELDS or (name in _NESTED_FIELDS and not isinstance(inner, str)):
                    waiting.append(inner)


def _least_tokens(texts: Iterable[object], enough: int) -> int:
    words = chars = 0
    for text in texts:
        if not isinstance(text, str):
            continue
        for begin in range(0, len(text), _SLICE_CHARS):
            found = text[begin : begin + _SLICE_CHARS].split()
            words += len(found) - (begin > 0)  # the cut may have halved a word
            chars += sum(map(len, found))
            if max(words, chars // CHARS_PER_TOKEN) > enough:
                return max(words, chars // CHARS_PER_TOKEN)
    return max(words, chars // CHARS_PER_TOKEN)
