"""The rules of a grammar: what each analysis of it needs."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

_BEYOND_ASCII: Final = 128
_MOST_CHARS: Final = 64
"""Longer literals are compared by their first characters."""


class Terminal(Struct, frozen=True):
    """Text that the output must contain next.

    Attributes:
        first: the characters that it can begin with, as a bit mask; bit 128 for all beyond ASCII.
        text: the text; "" if it is one of several characters.
        stacks: the parse stacks that it causes, for text with a structure of its own.
    """

    first: int
    text: str = ""
    stacks: int = 1


Symbol = Terminal | str
"""A terminal, or the name of a rule."""

Alternative = tuple[Symbol, ...]
Rules = Mapping[str, Sequence[Alternative]]
"""The alternatives of each rule. Servers refuse names without a rule."""

ANY_CHARACTER: Final = (1 << (_BEYOND_ASCII + 1)) - 1


def mask(character: str) -> int:
    """Return the bit of a character in `Terminal.first`."""
    return 1 << min(ord(character), _BEYOND_ASCII)


def literal(text: str) -> Terminal:
    """Return the terminal of a text that is not empty."""
    return Terminal(mask(text[0]), text[:_MOST_CHARS])


def nullable_rules(rules: Rules) -> set[str]:
    """Return the rules that match the empty text, also by way of other rules."""
    nullable: set[str] = set()
    missing: dict[int, int] = {}
    used_by: dict[str, list[tuple[int, str]]] = {}
    found = []
    for name, alternatives in rules.items():
        for alternative in alternatives:
            names = [symbol for symbol in alternative if isinstance(symbol, str)]
            if len(names) < len(alternative):
                continue
            number = len(missing)
            missing[number] = len(names)
            for symbol in names:
                used_by.setdefault(symbol, []).append((number, name))
            if not names:
                found.append(name)
    while found:
        name = found.pop()
        if name in nullable:
            continue
        nullable.add(name)
        for number, user in used_by.get(name, ()):
            missing[number] -= 1
            if not missing[number]:
                found.append(user)
    return nullable


def components(graph: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Return the strongly connected components of a graph, each after those that it leads to.

    Names that are not in the graph are left out.
    """
    search = _Tarjan(graph)
    for name in graph:
        if name not in search.index:
            search.visit(name)
    return search.found


class _Tarjan:
    """Tarjan's algorithm."""

    def __init__(self, graph: Mapping[str, Sequence[str]]) -> None:
        self.found: list[list[str]] = []
        self.index: dict[str, int] = {}
        self._graph = graph
        self._done: set[str] = set()
        self._open: list[str] = []

    def visit(self, name: str) -> int:
        """Find the component of a name; return the lowest index that it leads back to."""
        lowest = self.index[name] = len(self.index)
        position = len(self._open)
        self._open.append(name)
        for target in self._graph[name]:
            if target in self._graph and target not in self._done:
                known = self.index.get(target)
                lowest = min(lowest, self.visit(target) if known is None else known)
        if lowest == self.index[name]:
            self.found.append(self._open[position:])
            self._done.update(self._open[position:])
            del self._open[position:]
        return lowest
