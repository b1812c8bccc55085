"""Rules for the values of a request.

A rule checks one value and returns what is sent to the server: the value itself, an object or list
that contains only what its own rules return, or `REMOVED`. What a rule has looked into is thus
written by the agent's encoder: a duplicate, an escaped or an oddly spelled name cannot mean one
thing to the agent and another to the server. Values without a rule keep their bytes.
"""

from collections.abc import Iterable, Mapping, Sized
from typing import Final, Protocol

import msgspec
from msgspec import Raw

from provider_agent.adapters.errors import RefusedRequest
from provider_agent.adapters.requests.offload import require_thread
from provider_agent.adapters.requests.parse_stacks import StackBudget
from provider_agent.adapters.requests.structure import nesting_exceeds
from provider_agent.protocol.limits import KIB

FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])
_ITEMS: Final = msgspec.json.Decoder(list[Raw])
_OBJECTS: Final = msgspec.json.Decoder(list[dict[str, Raw]])
_NUMBER: Final = msgspec.json.Decoder(float | int)
_STRING: Final = msgspec.json.Decoder(str)

REMOVED: Final = object()
"""Returned by a rule whose value is not sent."""

_QUOTE, _BRACE, _BRACKET, _NULL = b'"{[n'
_FLAG: Final = b"tf"
"""The first bytes of a string, an object, a list, null, and true or false."""

_AS_LISTS: Final = bytes.maketrans(b"({)}", b"[[]]")
_NOT_BRACKETS: Final = bytes(code for code in range(256) if code not in b"()[]{}")

_NESTING_INLINE_BYTES: Final = 32 * KIB
"""The nesting of a larger value is counted in the thread: each level may take a pass over it."""

_SHOWN: Final = 20
"""Limit of the removed names in an error message or log record."""


class Review:
    """What the rules must know for one request, and what they have removed from it.

    Attributes:
        removed: dotted names of fields and types that are not sent, at most `_SHOWN`.

    Args:
        url_schemes: the schemes that a URL in a message may have.
        passed: dotted names that the operator allows; their values are not checked.
        stripped: dotted names that are not sent although a rule allows them.
        refused: dotted names whose removal would change what the client asked for.
        stack_budget: bounds the grammars of the request; None for no bound.
    """

    __slots__ = ("_refused", "passed", "removed", "stack_budget", "stripped", "url_schemes")

    def __init__(
        self,
        url_schemes: tuple[str, ...],
        passed: frozenset[str] = frozenset(),
        stripped: frozenset[str] = frozenset(),
        refused: frozenset[str] = frozenset(),
        stack_budget: StackBudget | None = None,
    ) -> None:
        self.removed: dict[str, None] = {}
        self.url_schemes = url_schemes
        self.passed = passed
        self.stripped = stripped
        self._refused = refused
        self.stack_budget = stack_budget

    def remove(self, name: str) -> None:
        """Note that a field or a type is not sent.

        Raises:
            BadRequest: the response would be another one without it.
        """
        if name in self._refused:
            raise RefusedRequest(f"this provider does not accept: {name}")
        if len(self.removed) < _SHOWN:
            self.removed[name] = None


class Rule(Protocol):
    """Checks one value."""

    def check(self, value: Raw, name: str, review: Review) -> object:
        """Return what is sent to the server; `REMOVED` for nothing.

        Args:
            value: the JSON text of the value. It is not decoded yet, so it may be invalid inside.
            name: the dotted name of the field.
            review: collects what is removed.

        Raises:
            BadRequest: the value has the wrong type or is out of bounds.
            ValueError: the value is not valid JSON.
        """
        ...


Fields = Mapping[str, Rule | None]
"""The rule of each field that may be sent; None forwards any value."""


class Number(msgspec.Struct, frozen=True):
    """A JSON number between two bounds, or null.

    A number in a string is refused, because vLLM would convert it.

    Attributes:
        or_flag: whether the value may also be true or false.
    """

    least: float
    most: float
    or_flag: bool = False

    def check(self, value: Raw, name: str, review: Review) -> object:  # noqa: ARG002
        """See `Rule.check`."""
        first = _first(value)
        if first != _NULL and not (self.or_flag and first in _FLAG):
            try:
                number = _NUMBER.decode(value)
            except ValueError:
                raise RefusedRequest(f"{name} is not a number") from None
            if not self.least <= number <= self.most:
                raise RefusedRequest(f"{name} is not between {self.least:,} and {self.most:,}")
        return value


class Flag(msgspec.Struct, frozen=True):
    """`true`, `false` or null.

    Attributes:
        removed: the value that is removed, such as `true`; None removes neither.
    """

    removed: bytes | None = None

    def check(self, value: Raw, name: str, review: Review) -> object:
        """See `Rule.check`."""
        text = bytes(value) if memoryview(value).nbytes <= 5 else b""
        if text not in (b"true", b"false", b"null"):
            raise RefusedRequest(f"{name} is not true, false or null")
        if text == self.removed:
            review.remove(name)
            return REMOVED
        return value


class Size(msgspec.Struct, frozen=True):
    """Any value of a limited size.

    Attributes:
        most_bytes: limit of the JSON text.
        nesting: limit of nested brackets of any kind, also in strings; None for no limit.
    """

    most_bytes: int
    nesting: int | None = None

    def check(self, value: Raw, name: str, review: Review) -> object:  # noqa: ARG002
        """See `Rule.check`."""
        if memoryview(value).nbytes > self.most_bytes:
            raise RefusedRequest(f"{name} has over {self.most_bytes} bytes")
        if self.nesting is not None:
            if memoryview(value).nbytes > _NESTING_INLINE_BYTES:
                require_thread()
            brackets = unescaped(value).translate(_AS_LISTS, _NOT_BRACKETS)
            if nesting_exceeds(brackets, self.nesting):
                raise RefusedRequest(f"{name} is nested over {self.nesting} levels deep")
        return value


class Object(msgspec.Struct, frozen=True):
    """An object with these fields, or null. Other fields are removed.

    Attributes:
        fields: the rule of each field.
        needed: fields without which servers fail (llama.cpp with status 500).
    """

    fields: Fields
    needed: tuple[str, ...] = ()

    def check(self, value: Raw, name: str, review: Review) -> object:
        """See `Rule.check`."""
        first = _first(value)
        if first == _NULL:
            return value
        if first != _BRACE:
            raise RefusedRequest(f"{name} is not an object")
        return self.check_object(FIELDS.decode(value), name, review)

    def check_object(self, found: Mapping[str, Raw], name: str, review: Review) -> object:
        """Check an object that is decoded; see `Rule.check`."""
        _require(found, self.needed, name)
        return check_fields(found, self.fields, name + ".", review)


class Items(msgspec.Struct, frozen=True):
    """A list of a limited number of items, or null. Removed items are left out."""

    item: Rule | None
    most: int

    def check(self, value: Raw, name: str, review: Review) -> object:
        """See `Rule.check`."""
        first = _first(value)
        if first == _NULL:
            return value
        if first != _BRACKET:
            raise RefusedRequest(f"{name} is not a list")
        checked: Iterable[object]
        if isinstance(self.item, Object | Typed) and (objects := _objects(value)) is not None:
            self._check_length(objects, name)
            checked = (self.item.check_object(item, name, review) for item in objects)
        else:
            items = _ITEMS.decode(value)
            self._check_length(items, name)
            if self.item is None:
                return value
            checked = (self.item.check(item, name, review) for item in items)
        return [item for item in checked if item is not REMOVED]

    def _check_length(self, items: Sized, name: str) -> None:
        if len(items) > self.most:
            raise RefusedRequest(f"{name} has over {self.most} items")


class Typed(msgspec.Struct, frozen=True):
    """An object whose `type` selects its fields.

    Attributes:
        variants: the fields of each type; the type "" stands for an object without one.
        required: whether another type is refused; otherwise the object is removed.
        needed: for a type, the fields without which servers fail.
    """

    variants: Mapping[str, Fields]
    required: bool = False
    needed: Mapping[str, tuple[str, ...]] = {}

    def check(self, value: Raw, name: str, review: Review) -> object:
        """See `Rule.check`."""
        if _first(value) != _BRACE:
            raise RefusedRequest(f"{name} contains a value that is not an object")
        return self.check_object(FIELDS.decode(value), name, review)

    def check_object(self, found: Mapping[str, Raw], name: str, review: Review) -> object:
        """Check an object that is decoded; see `Rule.check`."""
        kind = _type_of(found)
        fields = self.variants.get(kind)
        named = f"{name}.{kind or 'type'}"
        if fields is not None and named not in review.stripped:
            _require(found, self.needed.get(kind, ()), name)
            return check_fields(found, fields, name + ".", review)
        if named in review.passed:
            return found
        if self.required:
            problem = "this provider does not accept:"
            listed = named if fields is not None else f"{name} of an unknown type"
            raise RefusedRequest(f"{problem} {named[:100]}", f"{problem} {listed}")
        review.remove(named[:100])
        return REMOVED


class Shapes(msgspec.Struct, frozen=True, kw_only=True):
    """A value whose JSON type selects its rule; another type is refused. Null is always sent."""

    string: Rule | None = None
    items: Rule | None = None
    mapping: Rule | None = None
    scalar: Rule | None = None

    def check(self, value: Raw, name: str, review: Review) -> object:
        """See `Rule.check`."""
        first = _first(value)
        if first == _NULL:
            return value
        if first == _QUOTE:
            rule = self.string
        elif first == _BRACKET:
            rule = self.items
        else:
            rule = self.mapping if first == _BRACE else self.scalar
        if rule is None:
            raise RefusedRequest(f"{name} has the wrong type")
        return rule.check(value, name, review)


class Anything(msgspec.Struct, frozen=True):
    """Any value, where `Shapes` needs a rule."""

    def check(self, value: Raw, name: str, review: Review) -> object:  # noqa: ARG002
        """See `Rule.check`."""
        return value


def check_fields(
    found: Mapping[str, Raw], fields: Fields, prefix: str, review: Review
) -> dict[str, object]:
    """Return the fields that are sent, with their checked values.

    Args:
        found: the fields of the client's object.
        fields: the fields that may be sent.
        prefix: the dotted name of the object with a final dot; "" for the request itself.
        review: collects what is removed.

    Raises:
        BadRequest: see `Rule.check`.
    """
    sent: dict[str, object] = {}
    passed, stripped = review.passed, review.stripped
    for name, value in found.items():
        if passed and prefix + name in passed:
            sent[name] = value
        elif name in fields and not (stripped and prefix + name in stripped):
            rule = fields[name]
            checked = value if rule is None else rule.check(value, prefix + name, review)
            if checked is not REMOVED:
                sent[name] = checked
        elif _first(value) != _NULL:  # leaving out a null changes nothing, so it is not noted
            review.remove((prefix + name)[:100])
    return sent


def _objects(value: Raw) -> list[dict[str, Raw]] | None:
    """Decode a list and its objects in one pass; return None if it contains another value.

    The texts of a request would otherwise be scanned once more for each level of lists.
    """
    try:
        return _OBJECTS.decode(value)
    except msgspec.ValidationError:
        return None


def decode_string(value: Raw) -> str:
    """Return the text of a JSON string.

    Raises:
        ValueError: the value is not a string.
    """
    return _STRING.decode(value)


def unescaped(value: Raw) -> bytes:
    """Return the text of a JSON string, whose escapes may hide brackets; other JSON as it is.

    Raises:
        ValueError: a string is invalid.
    """
    return decode_string(value).encode() if _first(value) == _QUOTE else bytes(value)


def _require(found: Mapping[str, Raw], needed: tuple[str, ...], name: str) -> None:
    for field in needed:
        if field not in found or _first(found[field]) == _NULL:
            raise RefusedRequest(f"{name} contains an object without {field}")


def _type_of(found: Mapping[str, Raw]) -> str:
    """Return the type of an object; "" if it has none.

    For an empty or invalid type, return "empty" or "invalid", which no rule has as a type.
    """
    value = found.get("type")
    if value is None or _first(value) == _NULL:
        return ""
    try:
        return _STRING.decode(value) or "empty"
    except ValueError:
        return "invalid"


def _first(value: Raw) -> int:
    """Return the first byte of a value: it shows the JSON type."""
    return memoryview(value)[0]
