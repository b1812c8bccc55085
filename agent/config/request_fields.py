"""Checks the names in `pass_fields` and `strip_fields`."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Final

from provider_agent.adapters.base import Backend
from provider_agent.adapters.registry import backend_class
from provider_agent.adapters.requests.policy import default_policy
from provider_agent.adapters.requests.rules import Fields, Items, Object, Rule, Shapes, Typed
from provider_agent.adapters.settings import PolicyMode
from provider_agent.agent.config.errors import bad_value
from provider_agent.agent.config.schema import BackendConfig

_REQUIRED: Final = frozenset({"model", "messages", "prompt", "input", "stream"})
"""Fields that the agent reads and checks itself; without them, a job fails."""


def check_request_fields(backend: BackendConfig, origin: str, key: str) -> None:
    """Check the backend's `pass_fields` and `strip_fields`.

    Raises:
        ConfigError: a name is that of a field that a job always needs, is in both lists, or has no
            effect.
    """
    for setting in ("pass_fields", "strip_fields"):
        for name in getattr(backend, setting):
            if name in _REQUIRED:
                reason = f'"{name}" is a field that every job needs and the agent checks'
                raise bad_value(origin, f"{key}.{setting}", reason, "remove it from the list")
    for name in backend.strip_fields:
        if name in backend.pass_fields:
            reason = f'"{name}" is in pass_fields, too'
            raise bad_value(
                origin, f"{key}.strip_fields", reason, "remove it from one of the lists"
            )
        if backend.request_policy is PolicyMode.PASS and "." in name:
            reason = f'"{name}" is inside a field, and request_policy = "pass" sends fields unread'
            hint = "name the whole field, or choose another request_policy"
            raise bad_value(origin, f"{key}.strip_fields", reason, hint)


def unknown_stripped_fields(backends: Iterable[BackendConfig]) -> Iterator[str]:
    """Yield a warning for each name in `strip_fields` that is never sent to its backend.

    It is probably misspelled, so that the field that the operator means is still sent.
    """
    for index, backend in enumerate(backends):
        if backend.request_policy is PolicyMode.PASS:
            continue  # every field is sent
        known = _sent_names(backend_class(backend.kind))
        for name in backend.strip_fields:
            if name in known:
                continue
            close = difflib.get_close_matches(name, known, n=1)
            question = f'; did you mean "{close[0]}"?' if close else ""
            yield (
                f'backends[{index}].strip_fields: "{name}" is no field that is sent to'
                f" {backend.kind}{question}"
            )


def _sent_names(adapter: type[Backend]) -> list[str]:
    """Return the dotted names of the fields and types that the kind's policy lists."""
    policy = getattr(adapter, "request_policy", None) or default_policy(native=adapter.native)
    return sorted({name for fields in policy.fields.values() for name in _names(fields, "")})


def _names(fields: Fields, prefix: str) -> Iterator[str]:
    for name, rule in fields.items():
        yield prefix + name
        yield from _names_inside(rule, prefix + name)


def _names_inside(rule: Rule | None, name: str) -> Iterator[str]:
    match rule:
        case Object(fields=fields):
            yield from _names(fields, f"{name}.")
        case Items(item=item):
            yield from _names_inside(item, name)
        case Shapes():
            for one in (rule.string, rule.items, rule.mapping, rule.scalar):
                yield from _names_inside(one, name)
        case Typed(variants=variants):
            for kind, fields in variants.items():
                yield f"{name}.{kind or 'type'}"
                yield from _names(fields, f"{name}.")
