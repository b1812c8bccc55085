"""Rules for what the output must match: grammars, regular expressions and JSON schemas.

The server converts each of them to a grammar with recursive code: a grammar of 60,000 brackets
crashes llama.cpp (issue 26600 of its tracker). For every token, adjacent optional parts take time
that grows with the square of their number, and meanwhile the server processes no other request.
3,000 properties, a pattern of 1,000 groups or 8,000 optional letters took over 20 s for three
tokens; 500 properties took half a second (measured with a tiny model).
"""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Final

import msgspec
from msgspec import Raw

from provider_agent.adapters.errors import RefusedRequest
from provider_agent.adapters.requests.gbnf import NotGbnfError, read_gbnf
from provider_agent.adapters.requests.offload import require_thread
from provider_agent.adapters.requests.parse_stacks import (
    MAX_STACKS,
    TooManyStacksError,
)
from provider_agent.adapters.requests.repetition import MAX_PARTS, grammar_parts, regex_parts
from provider_agent.adapters.requests.rules import (
    Review,
    Shapes,
    Size,
    Typed,
    decode_string,
    unescaped,
)
from provider_agent.adapters.requests.schema_bounds import check_bounds
from provider_agent.adapters.requests.schema_rules import ROOT, schema_rules
from provider_agent.adapters.requests.structure import check_structure
from provider_agent.protocol.limits import KIB

MAX_SCHEMA_BYTES: Final = 128 * KIB
"""OpenAI's own limit is 120,000 characters in names and values."""

MAX_SCHEMA_LEVELS: Final = 64
"""OpenAI's own limit is ten levels of schemas; each takes about three nested objects or lists."""

MAX_PROPERTIES: Final = 500
"""Entries of one object in a schema."""

MAX_CHOICES: Final = 1000
"""Items of one list in a schema. OpenAI's own limit for an `enum`."""

MAX_SUBSCHEMAS: Final = 5_000
"""Objects and lists of one schema: enough for about 2,000 properties."""

MAX_PATTERN_BYTES: Final = 1 * KIB
_PATTERN_NESTING: Final = 16

_JSON: Final = msgspec.json.Decoder()
_ENCODER: Final = msgspec.json.Encoder()


class Grammar(Size, frozen=True):
    """A grammar in a string."""

    def check(self, value: Raw, name: str, review: Review) -> object:
        """See `Rule.check`."""
        require_thread()  # the analysis takes up to 0.1 s
        super().check(value, name, review)
        text = unescaped(value)
        _check_parts(grammar_parts(text), name)
        if review.stack_budget and b"::=" in text:
            try:
                rules = read_gbnf(text.decode())
            except NotGbnfError:
                raise RefusedRequest(f"{name} is not a grammar in GBNF") from None
            try:
                review.stack_budget.add(rules, "root")
            except TooManyStacksError:
                raise _too_many_stacks(name) from None
        return value


class Regex(Size, frozen=True):
    """A regular expression in a string."""

    def check(self, value: Raw, name: str, review: Review) -> object:
        """See `Rule.check`."""
        super().check(value, name, review)
        _check_parts(regex_parts(unescaped(value)), name)
        return value


_GRAMMAR: Final = Grammar(64 * KIB, 64)
GRAMMAR: Final = Shapes(string=_GRAMMAR)

REGEX: Final = Shapes(string=Regex(MAX_PATTERN_BYTES, _PATTERN_NESTING))
"""A regular expression becomes an automaton, whose size can grow exponentially with nesting."""


class _Checked(msgspec.Struct, frozen=True):
    """The result of the check of a schema.

    Attributes:
        sent: what is sent; None: the client's own text.
        stacks: its parse stacks.
        steps: the steps of their analysis.
    """

    sent: Raw | None
    stacks: int
    steps: int


_CHECKED: Final[dict[tuple[bytes, bool], _Checked]] = {}
"""The recent schemas, by their hash and whether their stacks were counted: a conversation repeats
its tools in each request, and their check takes longer than all others."""
_MAX_CHECKED: Final = 4096
_MAX_SENT_BYTES: Final = 8 * KIB
"""A schema of which more would have to be kept is checked each time."""


class Schema(msgspec.Struct, frozen=True):
    """A JSON schema, also inside a larger object or in a string.

    The larger object may contain a grammar too: a structural tag, or the format of a custom tool.
    An object or list is encoded anew, without duplicate names; a string keeps its text.
    """

    def check(self, value: Raw, name: str, review: Review) -> object:
        """See `Rule.check`."""
        text = bytes(value)
        if len(text) > MAX_SCHEMA_BYTES:
            raise RefusedRequest(f"{name} has over {MAX_SCHEMA_BYTES} bytes")
        budget = review.stack_budget
        key = sha256(text).digest(), budget is not None
        checked = _CHECKED.get(key)
        if checked is None:
            require_thread()  # the check takes up to 0.1 s
            checked = _check_schema(text, name, review)
            if len(_CHECKED) >= _MAX_CHECKED:
                _CHECKED.clear()
            if checked.sent is None or memoryview(checked.sent).nbytes <= _MAX_SENT_BYTES:
                _CHECKED[key] = checked
        elif budget:
            try:
                budget.spend(checked.stacks, checked.steps)
            except TooManyStacksError:
                raise _too_many_stacks(name) from None
        return value if checked.sent is None else checked.sent


def _check_schema(text: bytes, name: str, review: Review) -> _Checked:
    """Check the text of a schema, and add its parse stacks to the budget."""
    if text.count(b"{") + text.count(b"[") > MAX_SUBSCHEMAS:
        raise RefusedRequest(f"{name} has over {MAX_SUBSCHEMAS} objects and lists")
    budget = review.stack_budget
    stacks, steps = (budget.stacks, budget.steps) if budget else (0, 0)
    schema = _JSON.decode(text)
    inner = _in_string(schema, name) if isinstance(schema, str) else schema
    _check_levels(inner, name, review)
    if budget:
        try:
            for one in _schemas(inner):
                budget.add(schema_rules(one), ROOT)
        except TooManyStacksError:
            raise _too_many_stacks(name) from None
        stacks, steps = budget.stacks - stacks, steps - budget.steps
    encoded = _ENCODER.encode(schema)
    return _Checked(None if encoded == text else Raw(encoded), stacks, steps)


SCHEMA: Final = Schema()


class Tool(Typed, frozen=True):
    """A tool.

    Servers match its name before its arguments, so the parse stacks of tools with different names
    do not add up.
    """

    def check_object(self, found: Mapping[str, Raw], name: str, review: Review) -> object:
        """See `Rule.check`."""
        budget = review.stack_budget
        before = budget.stacks if budget else 0
        checked = super().check_object(found, name, review)
        if budget and isinstance(checked, dict):
            inner = (checked.get("function"), checked.get("custom"))
            called = next((one for one in inner if isinstance(one, dict)), checked).get("name")
            budget.assign_to_tool(decode_string(called) if isinstance(called, Raw) else "", before)
        return checked


def _too_many_stacks(name: str) -> RefusedRequest:
    reason = f"over {MAX_STACKS} optional parts or alternatives at one point"
    recursive = "alternatives that begin alike and contain each other"
    return RefusedRequest(f"{name} has {reason}, or {recursive}")


def _schemas(value: object) -> Iterator[dict[str, object]]:
    """Yield an object, and the schema inside, if it is a `response_format` or part of one."""
    if isinstance(value, dict):
        yield value
        for field in ("json_schema", "schema"):
            yield from _schemas(value.get(field))


def _in_string(schema: str, name: str) -> object:
    """Return the schema that a string contains; vLLM accepts one."""
    try:
        text = schema.encode()
        check_structure(text)
        return _JSON.decode(text)
    except (ValueError, RefusedRequest):
        raise RefusedRequest(f"{name} is not a JSON schema") from None


def _check_levels(schema: object, name: str, review: Review) -> None:
    """Check the depth of a schema, and the objects, lists and texts of each level."""
    level = [schema]
    counted = 0
    for _ in range(MAX_SCHEMA_LEVELS):
        below: list[object] = []
        for value in level:
            if isinstance(value, dict | list):
                counted += _check_node(value, name, review)
                _check_parts(counted, name)
                inner = value.values() if isinstance(value, dict) else value
                below += [item for item in inner if isinstance(item, dict | list)]
        level = below
        if not level:
            return
    raise RefusedRequest(f"{name} is nested over {MAX_SCHEMA_LEVELS} levels deep")


def _check_node(value: dict[str, object] | list[object], name: str, review: Review) -> int:
    """Check one object or list; return how many parts counts like `{9}` in its patterns add."""
    if isinstance(value, list):
        if len(value) > MAX_CHOICES:
            raise RefusedRequest(f"{name} has a list of over {MAX_CHOICES} items")
        return 0
    if len(value) > MAX_PROPERTIES:
        raise RefusedRequest(f"{name} has an object of over {MAX_PROPERTIES} properties")
    check_bounds(value, name)
    for field in ("grammar", "definition"):
        if isinstance(text := value.get(field), str):
            _GRAMMAR.check(Raw(_ENCODER.encode(text)), f"{name}.{field}", review)
    by_name = value.get("patternProperties")
    patterns = [value.get("pattern"), value.get("regex")]
    patterns += by_name if isinstance(by_name, dict) else ()
    return sum(_counted_parts(text, name) for text in patterns if isinstance(text, str))


def _counted_parts(pattern: str, name: str) -> int:
    """Check a pattern; return how many parts its counts, such as `{9}`, add."""
    if len(pattern) > MAX_PATTERN_BYTES:
        raise RefusedRequest(f"{name} has a pattern of over {MAX_PATTERN_BYTES} characters")
    parts = regex_parts(pattern.encode())
    _check_parts(parts, name)
    return max(0, parts - sum(map(pattern.count, "|?*+{")))


def _check_parts(parts: int, name: str) -> None:
    if parts > MAX_PARTS:
        raise RefusedRequest(f"{name} has over {MAX_PARTS} operators after its counts are expanded")
