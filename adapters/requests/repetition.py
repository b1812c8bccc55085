"""Estimates how many parts a grammar or a regular expression has after its counts are expanded.

Servers expand `(a?){1000}` to 1000 optional parts, and stall as if the request contained all of
them (llama.cpp: over 40 s for a grammar of 60 bytes). llama.cpp expands `a{3,1}` until it has no
memory left, and reads `{2000x}` as `{2000}`. In a grammar, this module takes counts wherever they
stand, also in literals, where they are only text.
"""

import re
from typing import Final

MAX_PARTS: Final = 500
"""Operators of one grammar or expression, multiplied by the counts of the groups around them."""

_MAX_GROUP_COUNT: Final = 100
_MAX_CHARACTER_COUNT: Final = 1000
_CHARACTERS_PER_PART: Final = 64
"""A count of plain characters, such as `[a-z]{1,64}`, has no alternatives: it costs little."""

_TOO_MANY: Final = MAX_PARTS + 1
_INVALID: Final = 10_000
"""Stands for a count that is not valid, such as `{3,1}`; it exceeds every limit."""

_GRAMMAR_COUNT: Final = re.compile(rb"[{~](?=((?:[\s\d,.]|#[^\n]*\n){0,64}))")
"""`{m}`, `{m,}`, `{m,n}`, `{,n}`, with the spaces and comments of GBNF, and Lark's `~ m..n`.
The numbers are in a lookahead, so that a literal such as `"{1#"` hides no count after it."""
_LONG_COUNT: Final = re.compile(rb"[{~](?:[\s\d,.]|#[^\n]*\n){64}")
_COMMENT: Final = re.compile(rb"#[^\n]*\n")
_NUMBER: Final = re.compile(rb"\d+")
_OPERATORS: Final = b"|?*+{~"
_NOT_OPERATORS: Final = bytes(code for code in range(256) if code not in _OPERATORS)
_TOKEN: Final = re.compile(rb"(?s)\\.|\[\^?(?:\\.|[^\]\\])*\]|\{[\s,+-]*\d[^}]*\}?|.")
_ODD_COUNT: Final = re.compile(rb"\{[\s,+-]*(?:[+-]\s*\d|\d[\d\s,]*[^\d\s,}])")
"""A count with a sign, or with other characters than digits, spaces and commas."""
_AMBIGUOUS: Final = re.compile(rb"\[\^?[\[\]]|\(\?[#a-zA-Z-]*[#x]|\\[QE]")
"""Where engines disagree on what is inside a class or a comment."""


def grammar_parts(text: bytes) -> int:
    """Return the parts of a grammar.

    The counts of all groups are multiplied: each may be inside any other, directly or by its name.
    """
    operators = len(text.translate(None, _NOT_OPERATORS))
    if operators > MAX_PARTS or _LONG_COUNT.search(text):
        return _TOO_MANY
    factor, added = 1, 0
    for match in _GRAMMAR_COUNT.finditer(text):
        number = _number(match[1])
        before = text[: match.start()].rstrip(b" \t")[-1:]
        if match[0] == b"{" and before in (b"]", b'"', b"'"):
            added += _of_characters(number)
        elif number > _MAX_GROUP_COUNT:
            return _TOO_MANY
        elif before.isalnum() or before in (b"_", b"-"):
            added += number
        else:
            factor = min(factor * number, _TOO_MANY)
    return operators * factor + added


def regex_parts(text: bytes) -> int:
    """Return the parts of a regular expression."""
    operators = len(text.translate(None, _NOT_OPERATORS))
    if operators > MAX_PARTS or b"{" not in text:
        return operators
    if _AMBIGUOUS.search(text):
        return _ambiguous_parts(text)
    outer: list[int] = []
    parts, last, plain = 0, 0, True
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == b"(":
            outer.append(parts)
            parts = 0
        elif token == b")":
            if not outer:
                return _ambiguous_parts(text)
            last = parts
            parts += outer.pop()
        elif token[:1] == b"{" and len(token) > 1:
            number = _number(token)
            if plain:
                parts += 1 + _of_characters(number)
            elif number > _MAX_GROUP_COUNT:
                return _TOO_MANY
            else:
                added = max(last, 1) * number
                parts += added
                last += added
        elif token in (b"|", b"?", b"*", b"+"):
            parts += 1
            last = 1 if plain else last + 1
        plain = token not in (b"(", b")", b"|", b"?", b"*", b"+") and token[:1] != b"{"
        if parts > MAX_PARTS:
            return parts
    return _ambiguous_parts(text) if outer else parts


def _ambiguous_parts(text: bytes) -> int:
    """Return the parts of a regular expression whose structure depends on the engine."""
    return _TOO_MANY if _ODD_COUNT.search(text) else grammar_parts(text)


def _number(count: bytes) -> int:
    """Return the largest number of a count, at least 1; for an invalid one, `_INVALID`."""
    digits = _NUMBER.findall(_COMMENT.sub(b" ", count))
    numbers = [int(number) if len(number) < 5 else _INVALID for number in digits]
    if numbers != sorted(numbers) or _ODD_COUNT.match(count):
        return _INVALID
    return max(1, *numbers, 1)


def _of_characters(number: int) -> int:
    return number // _CHARACTERS_PER_PART if number <= _MAX_CHARACTER_COUNT else _TOO_MANY
