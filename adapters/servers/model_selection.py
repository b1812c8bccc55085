"""Which of a server's models are offered, and under which id. Pure."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from provider_agent.adapters.base import BackendModel, BackendSettings
from provider_agent.protocol.limits import MAX_NAME_CHARS

MAX_CONTEXT_TOKENS: Final = 2**31
"""No model has a window like this; a server that says so is mistaken."""

MAX_WITHHELD: Final = 100
"""Models that are not offered are kept for a person to read; a catalogue has thousands."""

NOT_LISTED: Final = "not in the backend's `models` list"
LIST_IT: Final = "list it in `models` to offer it"


def choose_offered(models: Iterable[BackendModel], settings: BackendSettings) -> list[BackendModel]:
    """All models by name, those that are not offered with the reason in `withheld`.

    Withheld is what speaks nothing, what the operator did not list, what no frame can carry, and a
    second model of the same id. A passthrough spends money, so it offers nothing without a list. A
    context window that cannot be one counts as not told. At most `MAX_WITHHELD` are kept that are
    not offered, first those that the operator did list.

    Args:
        models: what the server has.
        settings: the operator's list of models and aliases.
    """
    chosen: dict[str, BackendModel] = {}
    unlisted: set[str] = set()
    for model in models:
        listed = _is_listed(model, settings)
        for name in _names(model, settings):
            named = msgspec.structs.replace(
                model,
                model_id=name,
                context_window=_believable(model.context_window),
                withheld=model.withheld or _why_not(name, model, settings, listed=listed),
            )
            other = chosen.get(name)
            if other is None or (other.withheld and not named.withheld):
                chosen[name] = named
                (unlisted.discard if listed else unlisted.add)(name)
    withheld = [name for name, model in chosen.items() if model.withheld]
    withheld.sort(key=lambda name: (name in unlisted, name))
    for name in withheld[MAX_WITHHELD:]:
        del chosen[name]
    return [chosen[name] for name in sorted(chosen)]


def _names(model: BackendModel, settings: BackendSettings) -> Iterator[str]:
    """Its aliases, else the id that the adapter gave it."""
    ids = (model.upstream_id, model.model_id)
    aliases = [name for name, meant in settings.aliases.items() if meant in ids]
    yield from aliases or [model.model_id]


def _is_listed(model: BackendModel, settings: BackendSettings) -> bool:
    """Whether a pattern of the operator fits one of its names."""
    names = (model.upstream_id, model.model_id, *_names(model, settings))
    globs = settings.models
    if globs is None:
        return model.native
    return any(fnmatchcase(name, glob) for name in names for glob in globs)


def _why_not(name: str, model: BackendModel, settings: BackendSettings, *, listed: bool) -> str:
    """Why a model is not offered; "" when it is."""
    if not 0 < len(name) <= MAX_NAME_CHARS:
        return "its id is empty or too long"
    if not model.operations:
        return "it answers no request in a known format"
    if not listed:
        return LIST_IT if settings.models is None else NOT_LISTED
    return ""


def _believable(window: int | None) -> int | None:
    return window if window is not None and 0 < window <= MAX_CONTEXT_TOKENS else None
