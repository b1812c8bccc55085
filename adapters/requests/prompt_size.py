"""A lower bound of the number of tokens in a request's prompt.

For servers that silently truncate a prompt that exceeds the context window. The estimate is low on
purpose: a prompt that might fit is never rejected. It relies on two properties of current
tokenizers, in any language: a token does not span white space, so a text has at least as many
tokens as words; and in a long text a token has fewer than eight characters on average.

Only text that certainly reaches the model is counted: messages, system prompts, tool calls and
descriptions of tools. Roles, templates, schemas and images are not counted. Nor is the response:
`max_tokens` is an upper limit that most responses do not reach.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from provider_agent.protocol.formats import Operation

CHARS_PER_TOKEN: Final = 8
"""English has about four, German about five, Chinese between one and two."""

_SLICE_CHARS: Final = 64 * 1024
"""A text is counted in slices, so that counting can stop in the middle of a long text."""

_TEXT_FIELDS: Final = frozenset(
    {"content", "text", "input", "arguments", "thinking", "description", "output", "summary"}
)
"""Fields of messages, message parts and tools that contain text at any depth."""

_NESTED_FIELDS: Final = _TEXT_FIELDS | {
    *("function", "tool_calls", "parameters", "input_schema", "properties", "items"),
}
"""Fields whose objects and lists are searched for text fields."""


class _Request(msgspec.Struct):
    messages: object = None
    system: object = None
    instructions: object = None
    input: object = None
    prompt: object = None
    tools: object = None


def least_prompt_tokens(request: bytes, operation: Operation, enough: int) -> int:
    """Return a lower bound of the number of tokens in a request's prompt.

    Args:
        request: the request body. An invalid body counts as 0; the server rejects it.
        operation: the operation of the request.
        enough: counting stops above this number, which bounds the time for a huge request.
    """
    if len(request) <= enough:
        return 0  # a token has at least one byte, so there are at most `enough` tokens
    try:
        fields = msgspec.json.decode(request, type=_Request)
    except (ValueError, RecursionError):
        return 0
    if operation in (Operation.EMBEDDINGS, Operation.COMPLETIONS):
        # Each text of a list is a separate prompt.
        field = fields.input if operation is Operation.EMBEDDINGS else fields.prompt
        prompts = field if isinstance(field, list) else [field]
        return max((_least_tokens([prompt], enough) for prompt in prompts), default=0)
    found = [fields.messages, fields.system, fields.instructions, fields.input, fields.tools]
    return _least_tokens(_texts(found), enough)


def _texts(found: list[object]) -> Iterator[str]:
    """Yield the texts in known fields. Not recursive, because the client controls the depth."""
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
            words += len(found) - (begin > 0)  # the slice may start inside a word
            chars += sum(map(len, found))
            if max(words, chars // CHARS_PER_TOKEN) > enough:
                return max(words, chars // CHARS_PER_TOKEN)
    return max(words, chars // CHARS_PER_TOKEN)
