"""Bounds how many parse stacks a grammar can cause in a server.

llama.cpp, and the servers built on it, keep one stack for each way in which the output so far can
match the grammar, and compare the next token with each of them. Their number grows with optional
parts that follow each other, also inside named rules, and with alternatives that begin alike. It
has no limit if two such alternatives contain their own rule: `root ::= "x" root "a" | "x" root "b"`
doubles it with each letter, and two dozen tokens stall the server for more than 25 s (measured with
a tiny model). A JSON schema can do the same.

The analysis compares the first literal or character of alternatives. So it refuses recursive
alternatives that differ only later, and it does not see that an optional part behind a recursive
rule, such as `"else" block`, can also be read as a name.
"""

from typing import Final

from provider_agent.adapters.requests.grammar_rules import (
    Alternative,
    Rules,
    Symbol,
    Terminal,
    components,
    mask,
    nullable_rules,
)

MAX_STACKS: Final = 1000
"""llama.cpp needs about 0.3 s per token for 1,000 optional properties, and the time grows with the
square of their number (measured with a tiny model)."""

_STEPS: Final = 15_000
_MOST_STEPS: Final = 100_000
"""Limits of the analysis: `_STEPS`, and one for each byte. A step takes about 1 µs. 60 optional
parts in a row take 10,600 steps, a large schema less than one for each byte."""

_Rest = tuple[int, int]
"""The symbols of an alternative (by its number) from an index on."""


class TooManyStacksError(Exception):
    """The grammar can exceed `MAX_STACKS`, or its analysis takes too long."""


class StackBudget:
    """The stacks that the grammars of one request may cause together.

    Attributes:
        stacks: the sum for all grammars but those of tools.
        steps: how many steps all further analyses may take.

    Args:
        request_bytes: the size of the request, which bounds the work.
    """

    def __init__(self, request_bytes: int) -> None:
        self.stacks = 0
        self._by_tool: dict[str, int] = {}
        self.steps = min(_STEPS + request_bytes, _MOST_STEPS)

    def add(self, rules: Rules, root: str) -> None:
        """Add an upper bound of the stacks of a grammar.

        Args:
            rules: the grammar.
            root: the rule to begin with.

        Raises:
            TooManyStacksError: the grammars exceed `MAX_STACKS`, or the analysis takes too long.
        """
        analysis = _Analysis(rules, self.steps)
        try:
            stacks = analysis.bound(root)
        except RecursionError:
            raise TooManyStacksError from None
        self.spend(stacks, self.steps - analysis.steps)

    def spend(self, stacks: int, steps: int) -> None:
        """Add the result of an earlier analysis.

        Raises:
            TooManyStacksError: the grammars exceed `MAX_STACKS`, or the analysis takes too long.
        """
        self.stacks += stacks
        self.steps -= steps
        if self.stacks > MAX_STACKS or self.steps < 0:
            raise TooManyStacksError

    def assign_to_tool(self, name: str, before: int) -> None:
        """Count what has been added since `stacks` was `before` for a tool."""
        self._by_tool[name] = self._by_tool.get(name, 0) + self.stacks - before
        self.stacks = before

    @property
    def is_exceeded(self) -> bool:
        """Whether the grammars and the tools of one name exceed `MAX_STACKS` together."""
        return self.stacks + max(self._by_tool.values(), default=0) > MAX_STACKS


class _Analysis:
    """The analysis of one grammar.

    Rules that contain each other are a component. The rules that a component uses are analyzed
    before it.
    """

    def __init__(self, rules: Rules, steps: int) -> None:
        self._rules = rules
        self.steps = steps
        self._nullable = nullable_rules(rules)
        self._alternatives: list[Alternative] = []
        self._starts: dict[str, list[_Rest]] = {}
        self._calls: dict[str, list[tuple[str, _Rest]]] = {}
        """For each rule, the rules that contain it, and what follows it there."""
        for name, alternatives in rules.items():
            number = len(self._alternatives)
            self._alternatives += alternatives
            self._starts[name] = [(number + at, 0) for at in range(len(alternatives))]
            for at, alternative in enumerate(alternatives):
                for place, symbol in enumerate(alternative):
                    if isinstance(symbol, str):
                        rest = (number + at, place + 1)
                        self._calls.setdefault(symbol, []).append((name, rest))
        self._component: dict[str, int] = {}
        self._current = -1
        self._stacks: dict[str, int] = {}
        self._at_entry: dict[str, int] = {}
        self._after: dict[str, int] = {}
        self._firsts: dict[str, frozenset[Terminal]] = {}
        self._ends: dict[str, set[frozenset[_Rest]]] = {}
        self._known: dict[tuple[bool, frozenset[_Rest]], int] = {}

    def bound(self, root: str) -> int:
        """See `StackBudget.add`."""
        graph = {
            name: [one for alternative in alternatives for one in alternative if type(one) is str]
            for name, alternatives in self._rules.items()
        }
        found = components(graph)
        self._component = {name: at for at, names in enumerate(found) for name in names}
        for self._current, names in enumerate(found):
            for name in names:
                self._stacks[name] = self._live(frozenset(self._starts[name]), recursive=False)
            if len(names) > 1 or names[0] in graph[names[0]]:
                self._check_recursion(names)
        for name in self._rules:
            self._entry(name)
            self._stacks_after(name)
        return max(self._stacks.get(root, 0), *self._after.values(), 0)

    def _check(self, stacks: int) -> int:
        self.steps -= 1
        if stacks > MAX_STACKS or self.steps < 0:
            raise TooManyStacksError
        return stacks

    def _is_nullable(self, symbol: Symbol) -> bool:
        return isinstance(symbol, str) and symbol in self._nullable

    def _is_recursive(self, symbol: Symbol) -> bool:
        return isinstance(symbol, str) and self._component.get(symbol) == self._current

    def _symbols(self, rest: _Rest) -> Alternative:
        return self._alternatives[rest[0]][rest[1] :]

    # --- stacks at one position -----------------------------------------------------------------

    def _entry(self, symbol: Symbol) -> int:
        """Return the stacks where a symbol begins."""
        if not isinstance(symbol, str):
            return symbol.stacks
        if symbol not in self._at_entry:
            # A rule that begins with itself is not valid; llama.cpp overlooks some of them.
            self._at_entry[symbol] = MAX_STACKS + 1
            starts = self._starts.get(symbol, ())
            self._at_entry[symbol] = self._check(sum(map(self._rest_entry, starts)))
        return self._at_entry[symbol]

    def _rest_entry(self, rest: _Rest) -> int:
        stacks = 0
        for symbol in self._symbols(rest):
            stacks = self._check(stacks + self._entry(symbol))
            if not self._is_nullable(symbol):
                break
        return stacks

    def _stacks_after(self, name: str) -> int:
        """Return the stacks where a rule ends, also of the rules that it ends."""
        if name not in self._after:
            self._after[name] = 0
            for caller, rest in self._calls.get(name, ()):
                stacks = self._rest_entry(rest)
                if all(map(self._is_nullable, self._symbols(rest))):
                    stacks += self._stacks_after(caller)
                self._after[name] = self._check(max(stacks, self._after[name]))
        return self._after[name]

    # --- stacks while a rule is matched ---------------------------------------------------------

    def _live(self, group: frozenset[_Rest], *, recursive: bool) -> int:
        """Return the stacks while the output matches one of these, which begin together.

        Args:
            group: what may come next.
            recursive: count only the ways that lead into the current component.
        """
        key = recursive, group
        if key not in self._known:
            self._known[key] = 0
            values = {}
            entry = 0
            for symbol, rests in self._heads(group).items():
                values[symbol] = self._weight(symbol, recursive=recursive) * len(rests)
                if not recursive:
                    entry = self._check(entry + self._entry(symbol) * len(rests))
                after = frozenset(rests)
                values[symbol] = max(values[symbol], self._live(after, recursive=recursive))
                for end in self._optional_ends(symbol) if recursive else ():
                    if self._begin_alike(end, after):
                        values[symbol] = max(
                            values[symbol], self._live(end | after, recursive=True)
                        )
            most = sum(values.values())
            if most > max(entry, 1):  # else a smaller sum makes no difference
                most = self._together(values)
            self._known[key] = self._check(max(entry, most))
        return self._known[key]

    def _weight(self, symbol: Symbol, *, recursive: bool) -> int:
        if recursive:
            return int(self._is_recursive(symbol))
        if isinstance(symbol, str):
            return self._stacks.get(symbol, 1)
        return symbol.stacks

    def _heads(self, group: frozenset[_Rest]) -> dict[Symbol, set[_Rest]]:
        """Return the symbols that may be next, each with what follows it.

        A rule that is a whole alternative is replaced by its own alternatives.
        """
        heads: dict[Symbol, set[_Rest]] = {}
        todo, seen = list(group), set(group)
        while todo:
            number, place = todo.pop()
            alternative = self._alternatives[number]
            if place == len(alternative):
                continue
            self._check(0)
            symbol = alternative[place]
            if len(alternative) == 1 and symbol in self._starts:
                following = self._starts[symbol]
            else:
                heads.setdefault(symbol, set()).add((number, place + 1))
                following = [(number, place + 1)] if self._is_nullable(symbol) else []
            todo += [rest for rest in following if rest not in seen]
            seen.update(following)
        return heads

    def _together(self, values: dict[Symbol, int]) -> int:
        """Return the largest sum of the values of symbols that match the same output."""
        texts: dict[str, set[Symbol]] = {}
        masks: list[tuple[int, Symbol]] = []
        for symbol in values:
            first = 0
            for terminal in self._first(symbol):
                self._check(0)
                if terminal.text:
                    texts.setdefault(terminal.text, set()).add(symbol)
                else:
                    first |= terminal.first
            if first:
                masks.append((first, symbol))
        most = max(values.values())
        lengths = sorted(set(map(len, texts)))
        for text in texts:
            self._check(0)
            bit = mask(text[0])
            match = {symbol for first, symbol in masks if first & bit}
            for length in lengths[: lengths.index(len(text)) + 1]:
                match |= texts.get(text[:length], match)
            most = max(most, sum(values[symbol] for symbol in match))
        for bit in range(129 if len(masks) > 1 else 0):
            self._check(0)
            most = max(most, sum(values[symbol] for first, symbol in masks if first >> bit & 1))
        return most

    def _first(self, symbol: Symbol) -> frozenset[Terminal]:
        """Return the terminals that a symbol can begin with."""
        if not isinstance(symbol, str):
            return frozenset((symbol,))
        if symbol not in self._firsts:
            self._firsts[symbol] = frozenset()
            heads = self._heads(frozenset(self._starts.get(symbol, ())))
            self._firsts[symbol] = frozenset().union(*map(self._first, heads))
        return self._firsts[symbol]

    # --- recursion ------------------------------------------------------------------------------

    def _check_recursion(self, names: list[str]) -> None:
        """Check that recursion cannot increase the stacks without limit."""
        endings: dict[str, list[str]] = {name: [] for name in names}
        pending = []
        for name in names:
            if self._live(frozenset(self._starts[name]), recursive=True) > 1:
                raise TooManyStacksError
            for caller, rest in self._calls.get(name, ()):
                symbols = self._symbols(rest)
                if self._is_recursive(caller) and all(map(self._is_nullable, symbols)):
                    endings[caller].append(name)
                    if symbols:
                        pending.append((caller, name))
        # An optional part behind each level of the recursion may follow after the innermost one.
        place = {name: at for at, inner in enumerate(components(endings)) for name in inner}
        if any(place[caller] == place[name] for caller, name in pending):
            raise TooManyStacksError

    def _begin_alike(self, end: frozenset[_Rest], after: frozenset[_Rest]) -> bool:
        """Whether the output may continue in both ways.

        A keyword counts as different from a name, which begins with one of several characters:
        otherwise most grammars of programming languages would be refused.
        """
        ends, others = (
            {terminal for head in self._heads(group) for terminal in self._first(head)}
            for group in (end, after)
        )
        for one in ends:
            for other in others:
                self._check(0)
                short, long = sorted((one.text, other.text), key=len)
                is_alike = long.startswith(short) if short else len(long) < 2
                if is_alike and one.first & other.first:
                    return True
        return False

    def _optional_ends(self, symbol: Symbol) -> set[frozenset[_Rest]]:
        """Return the recursive parts that may follow when a rule could also end."""
        if not isinstance(symbol, str) or not self._is_recursive(symbol):
            return set()
        if symbol not in self._ends:
            found = self._ends[symbol] = set()
            for number, _ in self._starts[symbol]:
                alternative = self._alternatives[number]
                place = len(alternative)
                while place > 1 and self._is_nullable(alternative[place - 1]):
                    place -= 1
                if any(map(self._is_recursive, alternative[place:])):
                    found.add(frozenset([(number, place)]))
                for last in alternative[max(place - 1, 0) :]:
                    found.update(self._optional_ends(last))
        return self._ends[symbol]
