"""Which of a server's models are offered, and under which id. Pure."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from adapters.base import BackendModel, BackendSettings
from protocol.limits import MAX_NAME_CHARS

MAX_CONTEXT_TOKENS: Final = 2**31
"""No model has a window like this; a server that says so is mistaken."""


def choose_offered(models: Iterable[BackendModel], settings: BackendSettings) -> list[BackendModel]:
    """All models by name, those that are not offered with the reason in `withheld`.

    Withheld is what speaks nothing, what the operator did not list, what no frame can carry, and a
    second model of the same id. A context window that cannot be one counts as not told.

    Args:
        models: what the server has.
        settings: the operator's list of models and aliases.
    """
    names = {upstream: name for name, upstream in settings.aliases.items()}
    chosen: dict[str, BackendModel] = {}
    for model in models:
        name = names.get(model.upstream_id, model.model_id)
        window = model.context_window
        believable = window is not None and 0 < window <= MAX_CONTEXT_TOKENS
        named = msgspec.structs.replace(
            model,
            model_id=name,
            context_window=window if believable else None,
            withheld=model.withheld or _why_not(name, model, settings),
        )
        other = chosen.get(name)
        if other is None or (other.withheld and not named.withheld):
            chosen[name] = named
    return [chosen[name] for name in sorted(chosen)]


def _why_not(name: str, model: BackendModel, settings: BackendSettings) -> str:
    """Why a model is not offered; "" when it is."""
    if not 0 < len(name) <= MAX_NAME_CHARS:
        return "its id is empty or too long"
    if not model.operations:
        return "it answers no request in a known format"
    wanted = settings.models
    ids = (name, model.upstream_id)
    if wanted is not None and not any(fnmatchcase(i, glob) for i in ids for glob in wanted):
        return "not in the backend's `models` list"
    return ""
