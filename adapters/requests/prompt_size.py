"""A lower bound of the number of tokens in a request's prompt.

For servers that silently truncate a prompt that exceeds the context window. The estimate is low on
purpose: a prompt that might fit is never rejected. It relies on two properties of current
tokenizers, in any language: a token does not span white space, so a text has at least as many
tokens as words; and in a long text a token has fewer than eight characters on average.

Only text that certainly reaches the model is counted: messages, system prompts, tool calls and
descriptions of tools. Roles, templates, schemas and images are not counted. Nor is the response:
`max_tokens` is an upper limit that most responses do not reach.

Texts are counted as JSON, in slices, and never decoded: every call into C is short, so that a
thread can count a large request without blocking the event loop.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from msgspec import Raw

from provider_agent.adapters.requests.offload import require_thread
from provider_agent.protocol.formats import Operation
from provider_agent.protocol.limits import KIB

CHARS_PER_TOKEN: Final = 8
"""English has about four, German about five, Chinese between one and two."""

_INLINE_BYTES: Final = 128 * KIB
"""A prompt of this size takes 0.5 to 2 ms to count."""

_SLICE_BYTES: Final = 64 * KIB
_CLASSES: Final = bytes(
    0x20 if byte == 0x20 else ord("c") if 0x80 <= byte < 0xC0 else ord("x") for byte in range(256)
)
"""Maps the first byte of each character to `x`, the continuation bytes of UTF-8 to `c`, and spaces
to themselves."""

_ESCAPE_CHARS: Final = 6
"""The length of the longest escape, `\\u00e9`."""

_ABSENT: Final = Raw()


class _Request(msgspec.Struct):
    messages: Raw = _ABSENT
    system: Raw = _ABSENT
    instructions: Raw = _ABSENT
    input: Raw = _ABSENT
    prompt: Raw = _ABSENT
    tools: Raw = _ABSENT


# A request may have 100,000 of the following objects, so they are not tracked by the garbage
# collector. None is part of a cycle.


class _Function(msgspec.Struct, gc=False):
    description: Raw = _ABSENT
    arguments: Raw = _ABSENT


class _Call(msgspec.Struct, gc=False):
    function: _Function | None = None


class _Part(msgspec.Struct, gc=False):
    """The fields with text of a message, a part of one, an input item or a tool."""

    content: Raw = _ABSENT
    text: Raw = _ABSENT
    thinking: Raw = _ABSENT
    arguments: Raw = _ABSENT
    output: Raw = _ABSENT
    summary: Raw = _ABSENT
    description: Raw = _ABSENT
    function: _Function | None = None
    tool_calls: list[_Call] | None = None

    def texts(self) -> list[Raw]:
        found = [self.content, self.text, self.thinking, self.arguments]
        found += (self.output, self.summary, self.description)
        calls = [call.function for call in self.tool_calls or ()]
        for function in (self.function, *calls):
            if function is not None:
                found += (function.description, function.arguments)
        return [text for text in found if text is not _ABSENT]


_REQUEST: Final = msgspec.json.Decoder(_Request)
_ITEMS: Final = msgspec.json.Decoder(list[Raw])
_PART: Final = msgspec.json.Decoder(_Part)
_PARTS: Final = msgspec.json.Decoder(list[_Part])
_DEEPEST: Final = 4
"""Levels of nested lists that are read: messages, their parts, the parts of a tool's result, and
those of a search result in it."""


def least_prompt_tokens(request: bytes, operation: Operation, enough: int) -> int:
    """Return a lower bound of the number of tokens in a request's prompt.

    Args:
        request: the request body. An invalid body counts as 0; the server rejects it.
        operation: the operation of the request.
        enough: counting stops above this number, which bounds the time for a huge request.
    """
    if len(request) <= enough:
        return 0  # a token has at least one byte, so there are at most `enough` tokens
    if len(request) > _INLINE_BYTES:
        require_thread()
    try:
        fields = _REQUEST.decode(request)
        if operation in (Operation.EMBEDDINGS, Operation.COMPLETIONS):
            # Each text of a list is a separate prompt.
            field = fields.input if operation is Operation.EMBEDDINGS else fields.prompt
            prompts = _ITEMS.decode(field) if _starts(field, b"[") else [field]
            return max((_least_tokens([prompt], enough) for prompt in prompts), default=0)
        found = [fields.messages, fields.system, fields.instructions, fields.input, fields.tools]
        return _least_tokens(found, enough)
    except (ValueError, RecursionError):
        return 0


def _least_tokens(values: Iterable[Raw], enough: int) -> int:
    words = chars = 0
    # Joined, because a conversation has many short texts. The space keeps their words apart.
    text = memoryview(b" ".join(_strings(values, _DEEPEST)))
    for piece, splits in _pieces(text):
        piece_words, piece_chars = _count(piece)
        # Next to a split there may be only a part of a word or escape.
        words += max(0, piece_words - splits)
        chars += max(0, piece_chars - _ESCAPE_CHARS * splits)
        if max(words, chars // CHARS_PER_TOKEN) > enough:
            return max(words, chars // CHARS_PER_TOKEN)
    return max(words, chars // CHARS_PER_TOKEN)


def _pieces(text: memoryview) -> Iterator[tuple[bytes, int]]:
    """Yield the slices of a text, each with how many of its ends may split a word or an escape."""
    begin, split = 0, False
    while begin < text.nbytes:
        piece = bytes(text[begin : begin + _SLICE_BYTES])
        is_last = begin + len(piece) == text.nbytes
        cut = len(piece) if is_last else piece.rfind(b" ") + 1
        piece = piece[:cut] if cut else piece
        yield piece, split + (not cut)
        begin += len(piece)
        split = not cut


def _strings(values: Iterable[Raw], levels: int) -> Iterator[memoryview]:
    """Yield the JSON strings among values and in lists of parts, without their quotes."""
    for value in values:
        if _starts(value, b'"'):
            yield memoryview(value)[1:-1]
        elif levels and _starts(value, b"["):
            for part in _parts(value):
                yield from _strings(part.texts(), levels - 1)


def _parts(value: Raw) -> list[_Part]:
    """Return the objects of a list, usually in one pass over their texts."""
    try:
        return _PARTS.decode(value)
    except msgspec.ValidationError:  # the list has other values too
        return [_PART.decode(item) for item in _ITEMS.decode(value) if _starts(item, b"{")]


def _count(piece: bytes) -> tuple[int, int]:
    """Return the words and characters of a piece of a JSON string; too few rather than too many.

    Its only unescaped white space is the space. No list of the words is built: a prompt has many.
    """
    escapes = 0
    if b"\\" in piece:  # looking for a byte is faster than counting it
        escapes = piece.count(b"\\")
        # An escape separates words if it is white space, and is not counted as a character.
        piece = piece.replace(b"\\\\", b"xx")
        for escape in (b"\\n", b"\\t", b"\\r"):
            piece = piece.replace(escape, b" ")
    classes = piece.translate(_CLASSES)
    words = classes.count(b" x") + classes.startswith(b"x")
    # Counting what is rare is faster.
    chars = len(classes) - classes.count(b" ") - _ESCAPE_CHARS * escapes
    if not piece.isascii():
        chars -= classes.count(b"c")
    return words, max(0, chars)


def _starts(value: Raw, first: bytes) -> bool:
    return bytes(memoryview(value)[:1]) == first
