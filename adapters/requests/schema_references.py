"""Resolves the references (`$ref`) of a JSON schema.

llama.cpp crashes on a reference that leads only to itself, such as `{"$ref": "#/$defs/a"}` as `a`
in `allOf`, and at about 4,000 references in a row. Servers differ in how they read a reference; the
agent follows all of their readings.
"""

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

from provider_agent.adapters.requests.grammar_rules import components

Schema = dict[str, object]

COMBINING: Final = ("allOf", "anyOf", "oneOf")
"""Keywords whose schemas apply to the same value as the schema that contains them."""

_INDEX: Final = re.compile(r"\s*\+?0*(\d{1,6})")
"""llama.cpp reads the index of a list like the C function `strtoull`: ` +01x` is 1."""


class References:
    """Finds the schemas that the references in a schema name.

    Args:
        root: the whole schema.
    """

    def __init__(self, root: Schema) -> None:
        defs = root.get("$defs")
        self._root = (
            {**root, "$defs": _nested_defs(root)} if isinstance(defs, dict | None) else root
        )
        self._found: dict[str, list[Schema]] = {}

    def resolve(self, reference: str) -> list[Schema]:
        """Return the schemas that a reference may name; none for an unknown one.

        Servers take `~1` and `%25` in a reference as escapes or as they are.
        """
        if reference not in self._found:
            steps = reference.removeprefix("#").split("/")[1:]
            decoded = [unquote(one).replace("~1", "/").replace("~0", "~") for one in steps]
            found = [self._follow(steps), self._follow(decoded) if decoded != steps else None]
            self._found[reference] = [one for one in found if isinstance(one, dict)]
        return self._found[reference]

    def has_cycle(self) -> bool:
        """Return whether a schema contains itself with no other keyword than `COMBINING` between.

        Raises:
            RecursionError: references lead to each other several hundred times in a row.
        """
        graph = {}
        for schema in _schemas_in(self._root):
            reference = schema.get("$ref")
            parts = [part for key in COMBINING if isinstance(part := schema.get(key), list)]
            applied = [one for part in parts for one in part if isinstance(one, dict)]
            applied += self.resolve(reference) if isinstance(reference, str) else ()
            graph[str(id(schema))] = [str(id(one)) for one in applied]
        return any(len(one) > 1 or one[0] in graph[one[0]] for one in components(graph))

    def _follow(self, steps: list[str]) -> object:
        found: object = self._root
        for step in steps:
            if isinstance(found, dict):
                found = found.get(step)
            elif isinstance(found, list) and (index := _INDEX.match(step)):
                found = found[int(index[1])] if int(index[1]) < len(found) else None
            else:
                return None
        return found


def _schemas_in(value: object) -> Iterator[Schema]:
    """Yield the objects inside a value, each before those inside it."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            yield one
            todo += reversed(one.values())
        elif isinstance(one, list):
            todo += reversed(one)


def _nested_defs(root: Schema) -> Schema:
    """Return all `$defs`: newer llama.cpp moves those inside a schema to its root."""
    found: Schema = {}
    for schema in _schemas_in(root):
        if isinstance(defs := schema.get("$defs"), dict):
            found = {**defs, **found}
    return found
