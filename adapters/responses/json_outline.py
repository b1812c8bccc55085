"""Leaves the big values out of a JSON text, while it arrives. No I/O.

The last event of a Responses stream repeats the request and the whole response, so it can have
megabytes. What matters of it, such as the usage, is small, but may be anywhere in the text.
"""

import re
from array import array
from itertools import accumulate, islice
from operator import indexOf
from typing import Final

from msgspec import Struct

STRING_BYTES: Final = 1024
"""A longer string, or a longer object or list at depth 4, becomes `""`. In chat, depth 4 is the
delta and the log probabilities of a choice."""

MEMBER_BYTES: Final = 4 * 1024
"""The same for an object or list at depth 3: a choice of chat, or a field of a Responses object."""

_STRUCTURE: Final = re.compile(rb'["{}\[\]]')
_STRING_REST: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_OMITTED: Final = b'""'


def _values(levels: int) -> bytes:
    """Return a pattern of any number of whole JSON values, nested up to `levels`."""
    nested = rb"|[{\[]" + _values(levels - 1) + rb"[}\]]" if levels else b""
    return rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+"' + nested + rb")*+"


_VALUES: Final = re.compile(_values(8), re.DOTALL)
"""Finds whole values, which are copied at once: to read them bracket by bracket is much slower."""

_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_WHOLE_STRINGS: Final = re.compile(rb'(?:[^"]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_TO_BRACKET: Final = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+[{}\[\]]', re.DOTALL)
_STEPS: Final = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")
"""Maps a bracket to the change of the depth, as a signed byte."""

_NO_BRACKETS: Final = bytes(sorted(set(range(256)) - set(b"{}[]")))
_LEAST_DEEP_BYTES: Final = 64


class _Value(Struct):
    """A value that may be left out.

    Attributes:
        start: where it starts in the held bytes.
        limit: the bytes above which it is left out.
        depth: the depth of an object or list; 0 for a string.
    """

    start: int
    limit: int
    depth: int


class JsonOutline:
    """Copies one JSON text without its big values. The result does not depend on the pieces."""

    __slots__ = ("_depth", "_escape", "_held", "_in_string", "_omitting", "_open", "_out")

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escape = b""
        """A backslash at the end of the last piece."""
        self._open: list[_Value] = []
        """The values that are not closed yet, the outermost one first."""
        self._omitting = False
        """Whether the last value of `_open` is too big."""
        self._held = bytearray()
        """The bytes of `_open`."""
        self._out = bytearray()

    def receive_data(self, data: bytes) -> bytes:
        """Add the next bytes and return what is kept. Up to 6 KiB of open values are held."""
        if self._escape:
            data, self._escape = self._escape + data, b""
        at = 0
        while at < len(data):
            at = self._read_string(data, at) if self._in_string else self._read_plain(data, at)
        kept = bytes(self._out)
        self._out.clear()
        return kept

    def _read_string(self, data: bytes, at: int) -> int:
        """Read the rest of a string; return where reading continues."""
        found = _STRING_REST.match(data, at)
        end = found.end() if found else at
        if data[end : end + 1] == b"\\":  # it escapes the first byte of the next piece
            self._keep(data[at:end])
            self._escape = data[end:]
            return len(data)
        self._in_string = end == len(data)
        self._keep(data[at : end + 1])
        if not self._in_string:
            self._close(0)
        return end + 1

    def _read_plain(self, data: bytes, at: int) -> int:
        """Read whole values, or up to a quote or bracket; return where reading continues."""
        # Whole values within `STRING_BYTES` exceed no limit of their own. Inside a value that is
        # left out, the size does not matter.
        end = len(data) if self._omitting else at + STRING_BYTES
        if (values := _VALUES.match(data, at, end)) and values.end() > at:
            self._keep(values.group())
            return values.end()
        if self._open and (end := self._read_deep(data, at)) > at:
            return end
        found = _STRUCTURE.search(data, at)
        if found is None:
            self._keep(data[at:])
            return len(data)
        self._keep(data[at : found.start()])
        mark = found.group()
        if mark == b'"':
            self._in_string = True
            self._begin(STRING_BYTES, 0)
        elif mark in b"{[":
            self._depth += 1
            if self._depth in (3, 4):
                self._begin(MEMBER_BYTES if self._depth == 3 else STRING_BYTES, self._depth)
        self._keep(mark)
        if mark in b"}]":
            self._close(self._depth)
            self._depth -= 1
        return found.end()

    def _read_deep(self, data: bytes, at: int) -> int:
        """Read up to the end of the innermost open value, without a step for each bracket.

        Nothing inside a value at depth 4, or one that is left out, has a limit of its own, except
        long strings. Return `at` if such a string or a closing bracket is next, or if the innermost
        open value is neither at depth 4 nor left out.
        """
        value = self._open[-1]
        if data[at : at + 1] in (b"}", b"]") or not (self._omitting or value.depth == 4):
            return at
        size, start = _LEAST_DEEP_BYTES, at  # small at first: most values are
        while self._open and self._open[-1] is value:
            found = _WHOLE_STRINGS.match(data, start, start + size)
            if found is None or found.end() == start:
                if size == STRING_BYTES or start == len(data):
                    break
                size = STRING_BYTES  # a string is longer than the part
                continue
            end, levels = found.end(), self._depth - value.depth + 1
            brackets = _STRING.sub(b"", found.group()).translate(_STEPS, _NO_BRACKETS)
            try:
                last = indexOf(accumulate(array("b", brackets)), -levels)
            except ValueError:  # the value does not end here
                self._depth += 2 * brackets.count(b"\x01") - len(brackets)
                self._keep(data[start:end])
            else:
                closing = next(islice(_TO_BRACKET.finditer(data, start, end), last, None))
                end, self._depth = closing.end(), value.depth - 1
                self._keep(data[start:end])
                self._close(value.depth)
            start, size = end, min(2 * size, STRING_BYTES)
        return start

    def _begin(self, limit: int, depth: int) -> None:
        if not self._omitting:
            self._open.append(_Value(len(self._held), limit, depth))

    def _keep(self, data: bytes) -> None:
        if not self._open:
            self._out += data
        elif not self._omitting:
            self._held += data
            self._check_size()

    def _check_size(self) -> None:
        value = self._open[-1]
        if len(self._held) - value.start > value.limit:
            self._held[value.start :] = _OMITTED
            self._omitting = True

    def _close(self, depth: int) -> None:
        """Note the end of a string (depth 0), an object or a list."""
        if not self._open or self._open[-1].depth != depth:
            return
        self._open.pop()
        self._omitting = False
        if self._open:
            self._check_size()
        else:
            self._out += self._held
            self._held.clear()
