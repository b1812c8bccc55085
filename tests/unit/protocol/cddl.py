"""A validator for the subset of CDDL (RFC 8610) that docs/protocol/frames.cddl uses.

Arrays match as in the RFC, without backtracking (section 3.2 and appendix A): an optional group
that does not match is skipped, and each entry takes as many elements as it can.
"""

import re
from collections.abc import Callable
from typing import Final

Matcher = Callable[[object], bool]
"""Whether a value matches a type."""

Group = Callable[[list[object], int], int]
"""Matches elements from an index on; returns the index after them, or -1."""

_TOKEN: Final = re.compile(
    r"\s+|;[^\n]*"  # white space and comments
    r"|(?P<token>-?\d+\.\d+|-?\d+|\.\.|\.size|=>|[a-z][\w-]*|[\[\](){},:/*?=])"
)
_PRELUDE: Final[dict[str, Matcher]] = {
    "any": lambda value: True,  # noqa: ARG005
    "bool": lambda value: isinstance(value, bool),
    "bstr": lambda value: isinstance(value, bytes),
    "tstr": lambda value: isinstance(value, str),
    "null": lambda value: value is None,
    "int": lambda value: _is_int(value),
    "nint": lambda value: _is_int(value) and value < 0,  # type: ignore[operator]
    "number": lambda value: _is_int(value) or isinstance(value, float),
}


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class Schema:
    """The rules of a CDDL text."""

    def __init__(self, text: str) -> None:
        self._rules = dict(_PRELUDE)
        self._tokens = _tokens(text)
        while self._tokens:
            name = self._next()
            assert name not in self._rules, f"{name} is defined twice"
            self._expect("=")
            self._rules[name] = self._type()

    def matches(self, rule: str, value: object) -> bool:
        """Whether a value matches the rule."""
        return self._rules[rule](value)

    # --- the tokens -------------------------------------------------------------------------------

    def _peek(self, ahead: int = 0) -> str:
        return self._tokens[ahead] if ahead < len(self._tokens) else ""

    def _next(self) -> str:
        return self._tokens.pop(0)

    def _accept(self, token: str) -> bool:
        if self._peek() != token:
            return False
        self._next()
        return True

    def _expect(self, token: str) -> None:
        assert self._accept(token), f"{token} expected before {self._tokens[:8]}"

    # --- types ------------------------------------------------------------------------------------

    def _type(self) -> Matcher:
        choices = [self._one_type()]
        while self._accept("/"):
            choices.append(self._one_type())
        return lambda value: any(choice(value) for choice in choices)

    def _one_type(self) -> Matcher:
        token = self._next()
        if token == "[":
            return self._array()
        if token == "{":
            return self._map()
        if token == "(":
            inner = self._type()
            self._expect(")")
            return inner
        if re.match(r"-?\d", token):
            return _range(token, self._next() if self._accept("..") else token)
        if self._accept(".size"):
            return self._sized(token)
        return lambda value: self._rules[token](value)  # the rule may be defined later

    def _sized(self, base: str) -> Matcher:
        if self._accept("("):
            low = int(self._next())
            self._expect("..")
            high = int(self._next())
            self._expect(")")
        else:
            low = high = int(self._next())
        return lambda value: self._rules[base](value) and low <= _size(value) <= high

    def _map(self) -> Matcher:
        low, high = self._occurrence()
        key = self._one_type()
        self._expect("=>")
        item = self._type()
        self._expect("}")
        return lambda value: (
            isinstance(value, dict)
            and low <= len(value) <= high
            and all(key(one) and item(value[one]) for one in value)
        )

    def _array(self) -> Matcher:
        group = self._group("]")
        return lambda value: isinstance(value, list) and group(value, 0) == len(value)

    # --- groups -----------------------------------------------------------------------------------

    def _group(self, closing: str) -> Group:
        entries: list[Group] = []
        while not self._accept(closing):
            entries.append(self._entry())
            self._accept(",")

        def match(values: list[object], at: int) -> int:
            for entry in entries:
                at = entry(values, at)
                if at < 0:
                    return -1
            return at

        return match

    def _entry(self) -> Group:
        low, high = self._occurrence()
        if self._accept("("):
            one = self._group(")")
        else:
            if self._peek(1) == ":":  # the name of an array element does not affect matching
                self._next()
                self._next()
            one = _element(self._type())
        return _repeated(one, low, high)

    def _occurrence(self) -> tuple[int, float]:
        if self._accept("?"):
            return 0, 1
        if self._peek() == "*" or self._peek(1) == "*":
            low = 0 if self._accept("*") else int(self._next())
            self._accept("*")
            return low, int(self._next()) if self._peek().isdigit() else float("inf")
        return 1, 1


def _tokens(text: str) -> list[str]:
    found, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match is not None, f"not understood: {text[at : at + 20]!r}"
        at = match.end()
        if match["token"]:
            found.append(match["token"])
    return found


def _range(low: str, high: str) -> Matcher:
    if "." in low:
        return lambda value: isinstance(value, float) and float(low) <= value <= float(high)
    return lambda value: _is_int(value) and int(low) <= value <= int(high)  # type: ignore[operator]


def _size(value: object) -> int:
    """Return the size in bytes, also of a text (RFC 8610, section 3.8.1)."""
    assert isinstance(value, str | bytes)
    return len(value.encode() if isinstance(value, str) else value)


def _element(matcher: Matcher) -> Group:
    return lambda values, at: at + 1 if at < len(values) and matcher(values[at]) else -1


def _repeated(group: Group, low: int, high: float) -> Group:
    def match(values: list[object], at: int) -> int:
        count = 0
        while count < high and (after := group(values, at)) >= 0:
            at, count = after, count + 1
        return at if count >= low else -1

    return match
