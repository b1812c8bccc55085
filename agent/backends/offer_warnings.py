"""Prices and model names in the settings that are probably mistakes, and models not offered."""

import difflib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from provider_agent.adapters.base import Backend
from provider_agent.agent.backends.health_check import BackendState
from provider_agent.agent.backends.offer_groups import ServedModel, group_by_model
from provider_agent.agent.config.addresses import is_public
from provider_agent.agent.config.dialect import USEPOD, dialect_of
from provider_agent.agent.config.schema import Config, Price
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)

_MAX_CANDIDATES: Final = 200
"""The most names that are compared with a misspelled one. More would block the event loop for
milliseconds."""

_MAX_LOGGED: Final = 20
"""The most warnings that are logged after one change of the offers. `provider-agent check` prints
all."""


_SET_PRICE: Final = "set it in [pricing.models], or set the defaults in [pricing]"


class OfferWarning(Struct, frozen=True):
    """One probable mistake.

    Attributes:
        target: the model or the setting.
        problem: what is wrong.
        what_to_do: advice.
    """

    target: str
    problem: str
    what_to_do: str


def offer_warnings(
    serving: Sequence[ServedModel], states: Sequence[BackendState], config: Config
) -> list[OfferWarning]:
    """Return what an operator should check.

    Args:
        serving: every model of every healthy backend.
        states: the results of the last health checks. A setting is only reported as unmatched if
            the backends that it could match are reachable.
        config: all settings.
    """
    warnings = [*_withheld(serving), *_wrong_prices(serving, config)]
    for state in states:
        warnings += _paid_service(state.backend)
        if state.health.reachable:
            warnings += _unmatched_in_backend(state)
    # Prices are only checked if every configured backend has reported its models: a price could be
    # for a model of a missing one. A backend whose API key is missing was skipped: it has no state.
    if len(states) == len(config.backends) and all(state.health.reachable for state in states):
        known = {model.model_id for state in states for model in (*state.models, *state.withheld)}
        renamed = _renamed(states)
        for name in config.pricing.models:
            if name not in known:
                problem, advice = "it matches no model", _suggest(name, known)
                if name in renamed:
                    problem = f'this model is now offered as "{renamed[name]}"'
                    advice = f'rename the entry to "{renamed[name]}"'
                warnings.append(OfferWarning(f'[pricing.models] "{name}"', problem, advice))
    return warnings


def is_offered_in_usepod(price: Price | None) -> bool:
    """Whether a model with this price is offered in the dialect `usepod`, where 0 is no price."""
    return price is not None and price.input_per_1m > 0 and price.output_per_1m > 0


def _renamed(states: Iterable[BackendState]) -> dict[str, str]:
    """Return the id of each model by its other names: the server's name, and an alias's target."""
    renamed: dict[str, str] = {}
    for state in states:
        aliases = state.backend.settings.aliases
        for model in (*state.models, *state.withheld):
            for other in (model.upstream_id, aliases.get(model.model_id, "")):
                renamed.setdefault(other, model.model_id)
    return renamed


def _withheld(serving: Sequence[ServedModel]) -> Iterator[OfferWarning]:
    for model_id, group in group_by_model(serving).items():
        for one, reason, advice in group.withheld:
            yield OfferWarning(model_id, f"not offered by {one.backend.id}: {reason}", advice)


def _wrong_prices(serving: Sequence[ServedModel], config: Config) -> Iterator[OfferWarning]:
    pricing = config.pricing
    needs_price = dialect_of(config.coordinator, config.coordinator.url) == USEPOD
    is_paid = bool(
        config.operator.wallet or pricing.models or pricing.default_input_per_1m is not None
    )
    for one in serving:
        model, price = one.model, one.price
        is_candidate = model.native or price is not None
        if needs_price and is_candidate and not is_offered_in_usepod(price):
            problem = f"it has no price above 0, and so it is not offered in the dialect {USEPOD}"
            yield OfferWarning(model.model_id, problem, _SET_PRICE)
        elif price is None and model.native and is_paid:
            problem = "it has no price; a coordinator that pays sends no jobs for it"
            yield OfferWarning(model.model_id, problem, _SET_PRICE)
        if price is None or model.native:
            continue
        cost = (model.input_price_per_1m or 0, model.output_price_per_1m or 0)
        if price.input_per_1m < cost[0] or price.output_per_1m < cost[1]:
            problem = f"its price is below what {one.backend.id} charges ({cost[0]} and {cost[1]})"
            yield OfferWarning(model.model_id, problem, "raise it in [pricing.models]")


def _paid_service(backend: Backend) -> Iterator[OfferWarning]:
    """Yield a warning for an `openai_compatible` backend that is probably a remote service."""
    host = urlsplit(backend.settings.url).hostname or ""
    if backend.kind == "openai_compatible" and is_public(host):
        problem = "its models are offered as your own hardware, but its address is public"
        advice = 'if you pay for its tokens, use the kind "openai_passthrough"'
        yield OfferWarning(backend.id, problem, advice)


def _unmatched_in_backend(state: BackendState) -> Iterator[OfferWarning]:
    """Yield the aliases and the names in `models` that match no model of the backend."""
    models = (*state.models, *state.withheld)
    known = {name for model in models for name in (model.model_id, model.upstream_id)}
    settings = state.backend.settings
    for alias, target in settings.aliases.items():
        named = [model.upstream_id for model in models if model.model_id == alias]
        setting = f'{state.backend.id}: alias "{alias}"'
        if not named:
            problem = f'"{target}" is no model of the backend, or is not listed in `models`'
            yield OfferWarning(setting, problem, _suggest(target, known))
        # llama.cpp's id may be a path that contains the model's name.
        elif all(alias in own and target not in own for own in named):
            problem = f'"{target}" is no model of the backend, but "{alias}" is'
            advice = f'the offered id comes first: did you mean "{target}" = "{alias}"?'
            yield OfferWarning(setting, problem, advice)
    for name in settings.models or ():
        if not set(name) & set("*?[") and name not in known:
            setting = f'{state.backend.id}: models "{name}"'
            yield OfferWarning(setting, "it matches no model", _suggest(name, known))


def _suggest(name: str, known: Collection[str]) -> str:
    first = name[:1].casefold()
    candidates = sorted(other for other in known if other[:1].casefold() == first)
    close = difflib.get_close_matches(name, candidates[:_MAX_CANDIDATES], n=1)
    if close:
        return f'did you mean "{close[0]}"?'
    return "`provider-agent models` lists the ids"


class OfferWarningLog:
    """Logs each warning once, until `reset`."""

    def __init__(self) -> None:
        self._logged: set[OfferWarning] = set()

    def report(self, warnings: Iterable[OfferWarning]) -> None:
        """Log the warnings that were not logged before, `_MAX_LOGGED` at most."""
        new = [warning for warning in dict.fromkeys(warnings) if warning not in self._logged]
        self._logged.update(new)
        for warning in new[:_MAX_LOGGED]:
            log.warning(
                "offer warning",
                target=warning.target,
                reason=warning.problem,
                what_to_do=warning.what_to_do,
            )
        if len(new) > _MAX_LOGGED:
            log.warning("offer warnings not logged", count=len(new) - _MAX_LOGGED)

    def reset(self) -> None:
        """Forget what was logged: the settings have changed."""
        self._logged.clear()
