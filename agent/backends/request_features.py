"""What a client can ask of a model that several backends serve.

A job for the model may run on any of them, so an offer promises only what holds for all.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from provider_agent.adapters.base import BackendModel
from provider_agent.protocol.field_values import is_name, valid_count

MAX_INPUT_KINDS: Final = 16
"""As many as `ModelOffer` may have."""


class RequestFeatures(Struct, frozen=True):
    """The fields of `ModelOffer` about requests; None: a backend does not report the value.

    Attributes:
        max_output_tokens: the smallest limit of the backends.
        input_kinds: the kinds that all backends accept, sorted; at most `MAX_INPUT_KINDS`.
        tools: whether all backends accept tools.
        json_schema: whether all backends accept a JSON schema.
        reasoning: whether the model can reason on all backends.
    """

    max_output_tokens: int | None
    input_kinds: list[str] | None
    tools: bool | None
    json_schema: bool | None
    reasoning: bool | None


def common_features(models: Sequence[BackendModel]) -> RequestFeatures:
    """Return what all of these entries of one model have in common.

    Args:
        models: the entry of each backend that serves the model; at least one.
    """
    return RequestFeatures(
        max_output_tokens=_smallest(valid_count(model.max_output_tokens) for model in models),
        input_kinds=_common_kinds([model.input_kinds for model in models]),
        tools=_all_of(model.tools for model in models),
        json_schema=_all_of(model.json_schema for model in models),
        reasoning=_all_of(model.reasoning for model in models),
    )


def _smallest(limits: Iterable[int | None]) -> int | None:
    """Return the smallest limit; None if one is unknown, because it may be smaller."""
    known = []
    for limit in limits:
        if limit is None:
            return None
        known.append(limit)
    return min(known)


def _common_kinds(reported: Sequence[frozenset[str] | None]) -> list[str] | None:
    """Return the kinds that all backends report; None if one does not report its kinds."""
    known = [kinds for kinds in reported if kinds is not None]
    if len(known) != len(reported):
        return None
    return sorted(filter(is_name, frozenset.intersection(*known)))[:MAX_INPUT_KINDS]


def _all_of(values: Iterable[bool | None]) -> bool | None:
    """Return False if any value is False; else None if any is unknown; else True."""
    distinct = set(values)
    return False if False in distinct else None if None in distinct else True
