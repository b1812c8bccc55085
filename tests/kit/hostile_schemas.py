"""JSON schemas and grammars (GBNF) with odd counts, references, patterns and nested alternatives.

Most are valid and small, so that they get past the agent's checks: what reaches the server must not
kill it.
"""

import json
from typing import Any, Final, TypeVar

from hypothesis import strategies as st

from provider_agent.adapters.requests.schema_references import COMBINING

Schema = dict[str, Any]
Drawn = TypeVar("Drawn")

COUNTS: Final = (0, 1, 2, 3, 20, 300, 5.0, 2.5, -1, 2**31 - 1, 2**31, 2**32 + 3, "3", None)
BOUNDS: Final = (
    *(0, 1, -1, 9, 10, -10, 99, 0.5, -0.0, True, 10**15, 10**15 + 1, -(10**15) - 1, 2**53),
    *(2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**64, 10**30, 1e18, 1e308, "5", None),
)
TYPES: Final = ("object", "array", "string", "number", "integer", "boolean", "null", "nope")
NAMES: Final = ("a", "b", "c/d", "e~", "", "é", 'q"')
REFERENCES: Final = (
    *("#", "#/", "#/$defs/a", "#/$defs/b", "#/$defs/c~1d", "#/$defs/c/d", "#/$defs/a/items"),
    *("#/$defs/b/anyOf/0", "#/$defs/a/properties/a", "#/properties/a", "#/allOf/0", "#/anyOf/+01"),
    *("#/definitions/a", "#/nowhere", "#a", "", "a", "https://127.0.0.1:1/schema"),
)
PATTERNS: Final = (
    *("^a*$", "^(a|b){2,5}$", "^[a-z]{3,1}$", "^(a?){0,20}$", "^a{4294967299}$", r"^\d+\.\w$"),
    *("a", "^$", "^(", "^[$", "^[]$", "^[^]$", "^a{,3}$", "^a{3,}$", "^(?:a|)+$", "^(?=a)b$"),
    *("^a|b$", "^**$", "^{2}$", "^a{2}{3}{4}$", "^\\", "^[z-a]$", "^[\\]a]$", '^"\\"$', "^.\n$"),
)
FORMATS: Final = ("date", "time", "date-time", "uuid", "uuid1", "email", "nope")


def one_in(
    number: int, odd: st.SearchStrategy[Drawn], usual: st.SearchStrategy[Drawn]
) -> st.SearchStrategy[Drawn]:
    """Draw an odd value about once in `number` draws, else a usual one.

    `st.one_of` cannot do this: it drops repeated strategies.
    """
    return st.integers(1, number).flatmap(lambda drawn: odd if drawn == 1 else usual)


_counts = one_in(4, st.sampled_from(COUNTS), st.integers(0, 5))
_bounds = one_in(4, st.sampled_from(BOUNDS), st.integers(-200, 200))
_values = st.sampled_from([None, True, 0, -1.5, "", "text", 'q"\\', [], [1], {}, {"a": [None]}])
_references = st.fixed_dictionaries({"$ref": st.sampled_from(REFERENCES)})


def _some(**keywords: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    return st.fixed_dictionaries({}, optional=keywords)


def _limits(what: str) -> st.SearchStrategy[Schema]:
    return _some(**{f"min{what}": _counts, f"max{what}": _counts})


def _with(schema: Schema, *others: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    """Draw an object with the keywords of all of these."""
    return st.tuples(st.just(schema), *others).map(
        lambda found: {name: value for one in found for name, value in one.items()}
    )


_leaves = st.one_of(
    _references,
    _with({}, _some(type=st.sampled_from(TYPES))),
    _with({}, _some(type=st.lists(st.sampled_from(TYPES), max_size=3))),
    _with({"type": "string"}, _limits("Length")),
    _with({"type": "string"}, _some(pattern=st.sampled_from(PATTERNS)), _limits("Length")),
    _with({"type": "string"}, _some(format=st.sampled_from(FORMATS))),
    _with({}, _some(enum=st.lists(_values, max_size=4), const=_values)),
    _with(
        {"type": "integer"},
        _some(minimum=_bounds, maximum=_bounds, exclusiveMinimum=_bounds, exclusiveMaximum=_bounds),
    ),
    st.sampled_from([True, False, None, 0, "", []]),
)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    by_name = st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
    some = st.lists(inner, max_size=3)
    return st.one_of(
        _with({"type": "array"}, _some(items=inner, prefixItems=some), _limits("Items")),
        _with({}, _some(items=st.one_of(inner, some), contains=inner), _limits("Contains")),
        _with(
            {"type": "object"},
            _some(properties=by_name, additionalProperties=inner),
            _some(required=st.lists(st.sampled_from(NAMES), max_size=3)),
            _limits("Properties"),
        ),
        _with({}, _some(patternProperties=st.dictionaries(st.sampled_from(PATTERNS), inner))),
        *(_with({}, st.fixed_dictionaries({key: some})) for key in COMBINING),
        _with({}, _some(allOf=some, anyOf=some, properties=by_name), _some(**{"$ref": _ref_text})),
        _with({}, _some(**{"not": inner, "if": inner, "then": inner, "$defs": by_name})),
    )


_ref_text = st.sampled_from(REFERENCES)
_inner = st.recursive(_leaves, _nested, max_leaves=8)


def schemas() -> st.SearchStrategy[Any]:
    """Draw a schema, mostly with definitions that its references name."""
    definitions = st.dictionaries(st.sampled_from(NAMES), _inner, min_size=1, max_size=3)
    return _inner.flatmap(
        lambda schema: (
            st.just(schema)
            if not isinstance(schema, dict)
            else definitions.map(lambda found: {"$defs": found, **schema})
        )
    )


def schema_texts() -> st.SearchStrategy[str]:
    """Draw a schema as JSON text."""
    return schemas().map(json.dumps)


_TERMINALS: Final = ('"x"', '"yz"', "[a-z]", "[^\\n]", ".", '"\\x41"', '"\\u00e9"')
_ODD_SYMBOLS: Final = ('""', "[z-a]", "[]", "nowhere", "root", "a", "b", "(", "|")
_ODD_SUFFIXES: Final = (
    "{3,1}",
    "{300}",
    "{4294967299}",
    "{x}",
    "{-1}",
    "{",
    "}",
    "??",
    "{ 2 , 3 }",
)
_ranges = st.lists(st.integers(0, 5), min_size=2, max_size=2).map(sorted)
_counts_in_braces = _ranges.map(lambda ends: f"{{{ends[0]},{ends[1]}}}")


_suffixes = one_in(
    30,
    st.sampled_from(_ODD_SUFFIXES),
    one_in(5, st.sampled_from("?*+") | _counts_in_braces, st.just("")),
)


def _alternatives(symbols: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    one = st.tuples(symbols, _suffixes).map("".join)
    sequences = st.lists(one, max_size=3).map(" ".join)
    return st.lists(sequences, min_size=1, max_size=3).map(" | ".join)


def _body(*rules: str) -> st.SearchStrategy[str]:
    """Draw the right side of a rule, which mostly names only these rules."""
    plain = st.sampled_from((*rules, *_TERMINALS))
    symbols = one_in(30, st.sampled_from(_ODD_SYMBOLS), plain)
    groups = _alternatives(symbols).map("({})".format)
    return _alternatives(one_in(6, groups, symbols))


def gbnf_texts() -> st.SearchStrategy[str]:
    """Draw a grammar whose rules name each other, and sometimes themselves."""
    return st.tuples(_body("a", "b"), _body("b"), _body()).map(
        lambda bodies: "root ::= {}\na ::= {}\nb ::= {}".format(*bodies)
    )
