"""Selects which models of a server are offered, and under which ids."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from provider_agent.adapters.base import BackendModel, BackendSettings
from provider_agent.protocol.limits import MAX_NAME_CHARS

MAX_CONTEXT_TOKENS: Final = 2**31
"""A larger context window or output limit is considered an error of the server."""

MAX_WITHHELD: Final = 100
"""Limit of models that are kept only to show why they are not offered; catalogs list thousands."""

NOT_LISTED: Final = "not in the backend's `models` list"
LIST_IT: Final = "list it in `models` to offer it"


def select_models(models: Iterable[BackendModel], settings: BackendSettings) -> list[BackendModel]:
    """Return the models in order of their ids; `withheld` is set for those that are not offered.

    A model is withheld if its adapter withholds it, if it supports no operation, if it is not in
    the operator's list, or if its id is empty or too long for a frame. Without a list, all
    models of a native server count as listed, and no model of a passthrough, because it costs
    money. Of several models with the same id, the first one that is offered is kept, or else the
    first one. An implausible context window or output limit becomes None, and the operator's
    `max_output_tokens` caps the output limit. At most `MAX_WITHHELD` withheld models are kept;
    listed models have priority.

    Args:
        models: the models of the server.
        settings: the operator's model list and aliases.
    """
    selected: dict[str, BackendModel] = {}
    unlisted: set[str] = set()
    for model in models:
        listed = _is_listed(model, settings)
        for name in _offered_ids(model, settings):
            named = msgspec.structs.replace(
                model,
                model_id=name,
                context_window=_plausible_tokens(model.context_window),
                max_output_tokens=_smallest(
                    settings.max_output_tokens, _plausible_tokens(model.max_output_tokens)
                ),
                withheld=model.withheld
                or _reason_to_withhold(name, model, settings, listed=listed),
            )
            other = selected.get(name)
            if other is None or (other.withheld and not named.withheld):
                selected[name] = named
                (unlisted.discard if listed else unlisted.add)(name)
    withheld = [name for name, model in selected.items() if model.withheld]
    withheld.sort(key=lambda name: (name in unlisted, name))
    for name in withheld[MAX_WITHHELD:]:
        del selected[name]
    return [selected[name] for name in sorted(selected)]


def _offered_ids(model: BackendModel, settings: BackendSettings) -> Iterator[str]:
    """Yield the aliases of a model; without any, the id from the adapter."""
    ids = (model.upstream_id, model.model_id)
    aliases = [name for name, target in settings.aliases.items() if target in ids]
    yield from aliases or [model.model_id]


def _is_listed(model: BackendModel, settings: BackendSettings) -> bool:
    """Whether one of the operator's patterns matches an id or alias of the model.

    If the operator set no list, every native model counts as listed.
    """
    names = (model.upstream_id, model.model_id, *_offered_ids(model, settings))
    globs = settings.models
    if globs is None:
        return model.native
    return any(fnmatchcase(name, glob) for name in names for glob in globs)


def _reason_to_withhold(
    name: str, model: BackendModel, settings: BackendSettings, *, listed: bool
) -> str:
    """Return why a model is not offered; "" if it is offered."""
    if not 0 < len(name) <= MAX_NAME_CHARS:
        return "its id is empty or too long"
    if not model.operations:
        return "it supports no known operation"
    if not listed:
        return LIST_IT if settings.models is None else NOT_LISTED
    return ""


def _smallest(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _plausible_tokens(tokens: int | None) -> int | None:
    return tokens if tokens is not None and 0 < tokens <= MAX_CONTEXT_TOKENS else None
