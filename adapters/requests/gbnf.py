"""Reads grammars in GBNF, the form of llama.cpp (also accepted by SGLang and vLLM).

Source: `grammars/README.md` of llama.cpp.
"""

import re
from typing import Final

from provider_agent.adapters.requests.grammar_rules import (
    ANY_CHARACTER,
    Alternative,
    Symbol,
    Terminal,
    literal,
    mask,
    nullable_rules,
)

_TOKEN: Final = re.compile(
    r"""\s+|\#[^\n]*
    |(?P<define>[\w-]+)\s*::=
    |(?P<name>[\w-]+)
    |"(?P<text>(?:[^"\\]|\\.)*+)"
    |'(?P<other_text>(?:[^'\\]|\\.)*+)'
    |\[(?P<chars>\^?(?:[^\]\\]|\\.)*+)\]
    |(?P<token>!?<[^<>\s]*>)
    |(?P<count>[?*+]|\{\s*(?P<least>\d*)\s*(?P<comma>,?)\s*(?P<most>\d*)\s*\})
    |(?P<mark>[()|.])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE: Final = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL
)
_CONTROL: Final = {"n": "\n", "r": "\r", "t": "\t"}
_MOST_COPIES: Final = 100


class NotGbnfError(Exception):
    """The text is not GBNF."""


def read_gbnf(text: str) -> dict[str, list[Alternative]]:
    """Return the rules of a grammar; groups and repetitions become rules of their own.

    Raises:
        NotGbnfError: the text is not GBNF.
    """
    reader = _Reader()
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise NotGbnfError
        reader.receive(token)
        at = token.end()
    return reader.finish()


class _Reader:
    """Builds rules from tokens."""

    def __init__(self) -> None:
        self._rules: dict[str, list[Alternative]] = {}
        self._name = ""
        self._outer: list[tuple[list[Alternative], list[Symbol]]] = []
        self._alternatives: list[Alternative] = []
        self._sequence: list[Symbol] = []
        self._counted: list[tuple[str, Symbol, int]] = []
        """The rules of repetitions with their largest counts."""

    def receive(self, token: re.Match[str]) -> None:
        """Add one token."""
        groups = token.groupdict()
        if (name := groups["define"]) is not None:
            self._end_rule()
            self._name = name
        elif groups["count"]:
            self._repeat(token)
        elif mark := groups["mark"]:
            self._mark(mark)
        elif (chars := groups["chars"]) is not None:
            self._sequence.append(Terminal(_class_mask(chars)))
        elif groups["token"]:
            self._sequence.append(Terminal(ANY_CHARACTER))
        elif name := groups["name"]:
            self._sequence.append(name)
        elif text := groups["text"] or groups["other_text"]:
            self._sequence.append(literal(_unescaped(text)))

    def finish(self) -> dict[str, list[Alternative]]:
        """Return all rules."""
        self._end_rule()
        nullable = nullable_rules(self._rules)
        for name, symbol, count in self._counted:
            if symbol in nullable:  # each copy may be left out on its own
                self._rules[name] = [(symbol,) * count, ()]
        return self._rules

    def _end_rule(self) -> None:
        if self._outer or (self._sequence and not self._name):
            raise NotGbnfError
        if self._name:
            self._end_alternative()
            self._rules.setdefault(self._name, []).extend(self._alternatives)
            self._alternatives = []

    def _end_alternative(self) -> None:
        self._alternatives.append(tuple(self._sequence))
        self._sequence = []

    def _mark(self, mark: str) -> None:
        if mark == "|":
            self._end_alternative()
        elif mark == ".":
            self._sequence.append(Terminal(ANY_CHARACTER))
        elif mark == "(":
            self._outer.append((self._alternatives, self._sequence))
            self._alternatives, self._sequence = [], []
        else:
            if not self._outer:
                raise NotGbnfError
            self._end_alternative()
            group = self._new_rule(self._alternatives)
            self._alternatives, self._sequence = self._outer.pop()
            self._sequence.append(group)

    def _new_rule(self, alternatives: list[Alternative]) -> str:
        name = f" {len(self._rules)}"  # no name in a grammar has a space
        self._rules[name] = alternatives
        return name

    def _repeat(self, token: re.Match[str]) -> None:
        if not self._sequence:
            raise NotGbnfError
        symbol = self._sequence.pop()
        mark = token["count"]
        if mark == "?":
            self._sequence.append(self._new_rule([(symbol,), ()]))
            return
        least = mark == "+" or int((token["least"] or "0")[:5])
        loop = self._new_rule([])
        self._rules[loop] = [(symbol, loop), ()]
        counted = self._new_rule([(symbol, loop) if least else (loop,)])
        self._sequence.append(counted)
        if mark[0] == "{" and isinstance(symbol, str):
            count = int((token["most"] or token["least"] or "0")[:5])
            self._counted.append((counted, symbol, min(max(count, 1), _MOST_COPIES)))


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(_character, text)


def _character(escape: re.Match[str]) -> str:
    if digits := escape[1] or escape[2] or escape[3]:
        return chr(min(int(digits, 16), 0x10FFFF))
    return _CONTROL.get(escape[4], escape[4])


def _class_mask(chars: str) -> int:
    """Return the mask of the characters between `[` and `]`."""
    inverted = chars.startswith("^")
    text = _unescaped(chars[inverted:])
    found, at = 0, 0
    while at < len(text):
        if text[at + 1 : at + 2] == "-" and at + 2 < len(text):
            first, last = (min(ord(text[end]), 128) for end in (at, at + 2))
            found |= (1 << (last + 1)) - (1 << first) if first <= last else 0
            at += 3
        else:
            found |= mask(text[at])
            at += 1
    # A class that excludes some characters beyond ASCII still contains others.
    return (ANY_CHARACTER & ~found) | (1 << 128) if inverted else found
