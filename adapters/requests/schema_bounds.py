"""Bounds of lengths, counts and numbers in a JSON schema that a server cannot convert.

llama.cpp writes `"minLength": 5, "maxLength": 3` as the count `{5,3}`, which it expands until it
has no memory left. It does the same for an integer that has only a lower bound above 10^15, or only
an upper bound below -10^15: it writes the number of further digits as `{16,15}`.
"""

from collections.abc import Mapping
from itertools import product
from typing import Final, TypeGuard

from provider_agent.adapters.errors import RefusedRequest

_MAX_COUNT: Final = 2**31 - 1
"""llama.cpp stores a count in 32 bits, without a check: 2^32 + 3 becomes 3."""

_COUNTS: Final = ("Length", "Items", "Properties", "Contains")
_LOWER: Final = ("minimum", "exclusiveMinimum")
_UPPER: Final = ("maximum", "exclusiveMaximum")

_WORDS: Final = frozenset(
    (*_LOWER, *_UPPER, *(f"{end}{word}" for end in ("min", "max") for word in _COUNTS))
)

_MAX_OPEN_INTEGER: Final = 10**15
_MIN_INT64: Final = -(2**63)
_MAX_INT64: Final = 2**63 - 1


def check_bounds(schema: Mapping[str, object], name: str) -> None:
    """Check the bounds of one schema, without those inside it.

    Raises:
        RefusedRequest: a lower bound is above its upper bound, or a bound is too large.
    """
    if _WORDS.isdisjoint(schema):  # as most schemas
        return
    for word in _COUNTS:
        least, most = schema.get(f"min{word}"), schema.get(f"max{word}")
        _check_order(least, most, f"{name} has min{word} above max{word}")
        for count in (least, most):
            _check_order(count, _MAX_COUNT, f"{name} has min{word} or max{word} above 2^31 - 1")
    for lower, upper in product(_LOWER, _UPPER):
        _check_order(schema.get(lower), schema.get(upper), f"{name} has {lower} above {upper}")
    kinds = schema.get("type")
    if "integer" in (kinds if isinstance(kinds, list) else [kinds]):
        _check_open_range(schema, name)


def _check_order(least: object, most: object, error: str) -> None:
    if _is_number(least) and _is_number(most) and least > most:
        raise RefusedRequest(error)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_open_range(schema: Mapping[str, object], name: str) -> None:
    """Check the bound of an integer that has only one, as llama.cpp stores it."""
    low, high = (
        _int64(schema.get(word), schema.get(exclusive), step, absent)
        for (word, exclusive), step, absent in ((_LOWER, 1, _MIN_INT64), (_UPPER, -1, _MAX_INT64))
    )
    if (high == _MAX_INT64 and low > _MAX_OPEN_INTEGER) or (
        low == _MIN_INT64 and high < -_MAX_OPEN_INTEGER
    ):
        raise RefusedRequest(f"{name} has an integer with only one bound, beyond 10^15")


def _int64(bound: object, exclusive: object, step: int, absent: int) -> int:
    """Return a bound as llama.cpp stores it.

    Its unsigned integers of 64 bits wrap around. What becomes of larger numbers depends on the
    machine; the worst case is the nearest integer of 64 bits.
    """
    if not _is_number(bound):
        if not _is_number(exclusive):
            return absent
        bound = exclusive + step
    if isinstance(bound, float) or abs(bound) > 2 * _MAX_INT64 + 1:
        return max(_MIN_INT64, min(int(bound), _MAX_INT64))
    return (bound - _MIN_INT64) % 2**64 + _MIN_INT64
