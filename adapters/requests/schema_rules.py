"""Writes a JSON schema as the rules of a grammar, as llama.cpp does.

Source: `common/json-schema-to-grammar.cpp`. The rules serve to count parse stacks, and leave out
what adds none: white space is omitted, a number is one terminal, and the properties that are not
required are a repetition.
"""

import json
from collections.abc import Iterable
from typing import Final

from provider_agent.adapters.requests.grammar_rules import (
    Alternative,
    Symbol,
    Terminal,
    literal,
    mask,
)
from provider_agent.adapters.requests.parse_stacks import TooManyStacksError
from provider_agent.adapters.requests.repetition import regex_parts
from provider_agent.adapters.requests.schema_references import COMBINING, References, Schema

ROOT: Final = "0"
"""The rule of the schema."""

_STARTS: Final = {
    "string": '"',
    "object": "{",
    "array": "[",
    "boolean": "tf",
    "null": "n",
    "number": "-0123456789",
    "integer": "-0123456789",
}
_VALUE: Final = Terminal(sum(map(mask, '"{[tfn-0123456789')), stacks=4)
"""Any JSON value."""


def schema_rules(schema: Schema) -> dict[str, list[Alternative]]:
    """Return the rules of a schema; their first one is `ROOT`.

    Raises:
        TooManyStacksError: the schema has too many properties and combined schemas, contains only
            itself, or is nested too deeply, directly or by references.
    """
    references = References(schema)
    writer = _Writer(references)
    try:
        if references.has_cycle():
            raise TooManyStacksError
        writer.value(schema)
    except RecursionError:
        raise TooManyStacksError from None
    return writer.rules


class _Writer:
    """Writes one rule for each schema inside a schema."""

    def __init__(self, references: References) -> None:
        self.rules: dict[str, list[Alternative]] = {}
        self._references = references
        self._names: dict[int, str] = {}
        self._members = 0

    def value(self, schema: object) -> Symbol:
        """Return the rule of a schema."""
        if not isinstance(schema, dict):
            return _VALUE
        name = self._names.get(id(schema))
        if name is None:
            name = self._names[id(schema)] = self._rule([])
            self.rules[name] = self._alternatives(schema)
        return name

    def _rule(self, alternatives: list[Alternative]) -> str:
        name = str(len(self.rules))
        self.rules[name] = alternatives
        return name

    def _alternatives(self, schema: Schema) -> list[Alternative]:
        if isinstance(reference := schema.get("$ref"), str):
            named: list[object] = [*self._references.resolve(reference)]
            return [(self.value(one),) for one in named or [None]]
        for key in ("oneOf", "anyOf"):
            if isinstance(choices := schema.get(key), list):
                return [(self.value(choice),) for choice in choices]
        if "const" in schema:
            return [(literal(json.dumps(schema["const"])),)]
        if isinstance(choices := schema.get("enum"), list):
            return [(literal(json.dumps(choice)),) for choice in choices]
        kinds = schema.get("type")
        if isinstance(kinds, list):
            return [one for kind in kinds for one in self._of_type(schema, kind)]
        return self._of_type(schema, kinds)

    def _of_type(self, schema: Schema, kind: object) -> list[Alternative]:
        if (kind in ("object", None) and schema.keys() & _OBJECT_WORDS) or "allOf" in schema:
            return [self._object(schema)]
        if kind in ("array", None) and schema.keys() & {"items", "prefixItems"}:
            return [self._array(schema)]
        pattern = schema.get("pattern")
        if kind in ("string", None) and isinstance(pattern, str):
            return [(Terminal(mask('"'), stacks=_pattern_stacks(pattern)),)]
        starts = _STARTS.get(kind) if isinstance(kind, str) else None
        return [(Terminal(sum(map(mask, starts))) if starts else _VALUE,)]

    def _object(self, schema: Schema) -> Alternative:
        required: list[Symbol] = []
        optional: list[Alternative] = []
        for name, value, is_required in self._properties(schema, frozenset()):
            self._count_member()
            member = (name, self.value(value))
            if is_required:
                required += member
            else:
                optional.append(member)
        return (literal("{"), *required, self._repeated(self._rule(optional)), literal("}"))

    def _count_member(self) -> None:
        self._members += 1
        if self._members > _MOST_MEMBERS:  # with `allOf`, each reference can double their number
            raise TooManyStacksError

    def _properties(
        self, schema: Schema, seen: frozenset[int]
    ) -> Iterable[tuple[Terminal, object, bool]]:
        """Yield the properties, also those that `allOf` combines, and whether they are required."""
        self._count_member()
        names = schema.get("required")
        required = {name for name in names if type(name) is str} if type(names) is list else set()
        if isinstance(properties := schema.get("properties"), dict):
            for name, value in properties.items():
                yield literal(json.dumps(name) + ":"), value, name in required
        if isinstance(patterns := schema.get("patternProperties"), dict):
            for pattern, value in patterns.items():
                yield Terminal(mask('"'), pattern, _pattern_stacks(pattern)), value, False
        if schema.get("additionalProperties", False) is not False:
            yield literal('"*":'), schema["additionalProperties"], False
        for key in COMBINING if seen or "allOf" in schema else ():
            parts = schema.get(key)
            for part in parts if isinstance(parts, list) else ():
                if isinstance(part, dict) and id(part) not in seen:
                    yield from self._properties(part, seen | {id(schema), id(part)})
        if seen and isinstance(reference := schema.get("$ref"), str):
            for one in self._references.resolve(reference):
                yield from self._properties(one, seen)

    def _array(self, schema: Schema) -> Alternative:
        items = schema.get("prefixItems", schema.get("items"))
        if isinstance(items, list):
            return (literal("["), *map(self.value, items), literal("]"))
        item = self.value(items)
        more = self._repeated(literal(","), item)
        return (literal("["), self._rule([(item, more), ()]), literal("]"))

    def _repeated(self, *symbols: Symbol) -> Symbol:
        more = self._rule([()])
        self.rules[more].append((*symbols, more))
        return more


def _pattern_stacks(pattern: str) -> int:
    return max(regex_parts(pattern.encode()), 1)


_MOST_MEMBERS: Final = 10_000
_OBJECT_WORDS: Final = {"properties", "additionalProperties", "allOf", "patternProperties"}
