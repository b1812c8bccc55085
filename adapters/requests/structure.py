"""Bounds on the structure of a request, checked before anything else reads it.

One linear scan counts the nesting, the fields and the values of the JSON text; it decodes nothing.
It works on slices, because a call into C keeps the GIL until it returns: the call for one slice
takes a few milliseconds at most, so that a thread can run the scan without blocking the event loop.
"""

import codecs
import re
from collections.abc import Iterator, Mapping
from math import isinf
from typing import Final

from msgspec import Raw

from provider_agent.adapters.errors import RefusedRequest
from provider_agent.adapters.requests.offload import require_thread
from provider_agent.protocol.limits import KIB, MIB

MAX_DEPTH: Final = 100
"""Levels of objects and lists. JSON schemas of tools have about 30; vLLM's decoder accepts 200."""

MAX_FIELDS: Final = 40_000
"""Fields of all objects. A conversation of 2,000 messages with 100 tools has about 20,000."""

MAX_VALUES: Final = 310_000
"""Elements of all lists and objects. The longest lists are token ids: OpenAI's embeddings route
accepts 300,000."""

MAX_OTHER_VALUES: Final = 100_000
"""Elements of a field other than `prompt` and `input`, which may hold long lists of token ids."""

INLINE_VALUES: Final = 2000
"""Elements of a request that is prepared in the event loop: a conversation of several hundred
messages. Checking one takes 1 to 3 µs."""

MAX_BACKSLASHES: Final = 2_000_000
"""Escapes in strings, which decoders handle one by one: more than any context window holds."""

# Linear: a match begins only where a number begins, and `++` does not backtrack.
_LARGE_NUMBER: Final = re.compile(rb"(?<![\d.])(?:[\d.]++[eE]\+?\d{3,}+|[\d.]{309,}+)")
"""A number that may exceed every floating-point type."""
_NUMBERS_INLINE_BYTES: Final = 32 * KIB
"""A larger request with such numbers is checked in the thread: each byte takes up to 0.1 µs."""
_NUMBER_BYTES: Final = 1024
"""How much of one slice is searched again with the next: a large number may span both."""

_UTF8: Final = codecs.getincrementaldecoder("utf-8")
_SLICE_BYTES: Final = 8 * KIB
"""Small, because a string that is longer than the rest of its slice is skipped."""
_JOINED_SLICES: Final = 8
"""How many slices are counted at once."""
_QUOTES: Final = 16
"""How many escaped quotes are looked at one by one, before slices are faster again."""
_BRACKETS: Final = b"[]{}"
_NOT_BRACKETS: Final = bytes(code for code in range(256) if code not in _BRACKETS)
_AS_LISTS: Final = bytes.maketrans(b"{}", b"[]")


def check_structure(request: bytes) -> int:
    """Check the depth and the counts of a request, and return the number of its values.

    The result is meaningful for valid JSON only; the decoder rejects everything else. A request of
    over `INLINE_VALUES` values continues in the thread; see `offload.require_thread`.

    Raises:
        BadRequest: the request exceeds a bound.
    """
    if len(request) > MAX_BACKSLASHES and _count(request, b"\\") > MAX_BACKSLASHES:
        raise RefusedRequest(f"the request has over {MAX_BACKSLASHES} escapes")
    if not request.isascii():
        _check_encoding(request)
    fields = values = brackets = 0
    shapes = []
    last = b""
    for outside in _outside_of_strings(request):
        recent = last + outside
        if _may_have_large_number(recent):
            if len(request) > _NUMBERS_INLINE_BYTES:
                require_thread()
            if any(isinf(float(number)) for number in _LARGE_NUMBER.findall(recent)):
                raise RefusedRequest("the request has a number that servers read as infinity")
        last = recent[-_NUMBER_BYTES:]
        fields += outside.count(b":")
        # Of n elements, only n - 1 have a comma; counting each list and object adds the last one.
        values += outside.count(b",")
        shape = outside.translate(_AS_LISTS, _NOT_BRACKETS)
        brackets += len(shape)
        shapes.append(shape)
        if values + brackets // 2 > INLINE_VALUES:
            require_thread()
        if fields > MAX_FIELDS or values + brackets // 2 > MAX_VALUES:
            raise RefusedRequest(f"the request has over {MAX_FIELDS} fields or {MAX_VALUES} values")
    if nesting_exceeds(b"".join(shapes), MAX_DEPTH):
        raise RefusedRequest(f"the request is nested over {MAX_DEPTH} levels deep")
    return values + brackets // 2


def _count(request: bytes, byte: bytes) -> int:
    """Count a byte in a large request; other threads can run between the slices."""
    return sum(request.count(byte, at, at + MIB) for at in range(0, len(request), MIB))


def _may_have_large_number(text: bytes) -> bool:
    """Whether a JSON text without strings may have an exponent or 309 digits in a row; fast."""
    letters = text.count(b"e") + text.count(b"E")
    if letters and letters > text.count(b"true") + text.count(b"false"):
        return True
    return len(text) > 308 and any(text[at : at + 16].isdigit() for at in range(0, len(text), 128))


def _check_encoding(request: bytes) -> None:
    """Check that a request is UTF-8 also where no rule decodes it."""
    decoder = _UTF8()
    try:
        for at in range(0, len(request), _SLICE_BYTES):
            decoder.decode(request[at : at + _SLICE_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise RefusedRequest("the request is not valid UTF-8") from None


def check_other_values(fields: Mapping[str, Raw]) -> None:
    """Check the size of all fields but those that may hold long lists of token ids.

    Args:
        fields: the outermost fields of a request of over `MAX_OTHER_VALUES` values.

    Raises:
        BadRequest: a field exceeds `MAX_OTHER_VALUES`. Commas in its texts count too.
    """
    for name, value in fields.items():
        if name not in ("prompt", "input") and bytes(value).count(b",") > MAX_OTHER_VALUES:
            problem = f"has over {MAX_OTHER_VALUES} values"
            raise RefusedRequest(f"{name[:100]} {problem}", f"a field {problem}")


def nesting_exceeds(brackets: bytes, levels: int) -> bool:
    """Return whether `[` and `]` are nested deeper than a number of levels.

    Each step removes the innermost level. More unclosed `[` than `levels` count as nested, too.
    """
    if brackets.count(b"[") <= levels:
        return False
    for _ in range(levels):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return b"[]" in brackets or brackets.count(b"[") > levels


def _outside_of_strings(request: bytes) -> Iterator[bytes]:
    """Yield the parts of a JSON text that are outside of strings, joined for several slices."""
    if len(request) <= _SLICE_BYTES:
        yield _outside(request, 0)[0]
        return
    found: list[bytes] = []
    in_string = begin = scanned = 0
    while begin < len(request):
        if in_string:
            begin, in_string = _skip_string(request, begin)
        piece = request[begin : begin + _SLICE_BYTES]
        # An escape must not be split: an odd number of backslashes continues in the next slice.
        if piece.endswith(b"\\") and (len(piece) - len(piece.rstrip(b"\\"))) % 2:
            piece = piece[:-1] or request[begin : begin + 2]
        begin += len(piece)
        scanned += len(piece)
        outside, in_string = _outside(piece, in_string)
        found.append(outside)
        if scanned >= _JOINED_SLICES * _SLICE_BYTES:
            yield b"".join(found)
            found.clear()
            scanned = 0
    yield b"".join(found)


def _outside(piece: bytes, in_string: int) -> tuple[bytes, int]:
    """Return what is outside of strings in a slice, and whether it ends in a string: 1 or 0.

    Args:
        piece: the slice, which does not end within an escape.
        in_string: whether it begins in a string.
    """
    # Without escaped quotes, every quote begins or ends a string.
    if b"\\" in piece:
        piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
    parts = piece.split(b'"')
    return b"".join(parts[in_string::2]), (in_string + len(parts) - 1) % 2


def _skip_string(request: bytes, begin: int) -> tuple[int, int]:
    """Skip the rest of a string that continues at `begin`; much faster for long strings.

    Returns:
        Where to continue, and whether this is still in the string, because it has many escaped
        quotes: 1 or 0.
    """
    for _ in range(_QUOTES):
        quote = request.find(b'"', begin)
        if quote < 0:
            return len(request), 1
        escaped = _backslashes_before(request, begin, quote) % 2
        begin = quote + 1
        if not escaped:
            return begin, 0
    return begin, 1


def _backslashes_before(request: bytes, begin: int, end: int) -> int:
    """Return how many backslashes are at the end of `request[begin:end]`: usually none or one."""
    size = 64
    while True:
        piece = request[max(begin, end - size) : end]
        rest = piece.rstrip(b"\\")
        if rest or size >= end - begin:
            return len(piece) - len(rest)
        size *= 16
