"""Checks the names in `pass_fields` and `strip_fields`."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Final

from provider_agent.adapters.base import Backend
from provider_agent.adapters.registry import backend_class
from provider_agent.adapters.requests.policy import RequestPolicy, default_policy
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


def request_field_warnings(backends: Iterable[BackendConfig]) -> Iterator[str]:
    """Yield a warning for each name in `pass_fields` or `strip_fields` that is probably a mistake.

    A misspelled name in `strip_fields` leaves the field that the operator means among those that
    are sent. `pass_fields` has no effect on a field that is sent without a check anyway.
    """
    for index, backend in enumerate(backends):
        if backend.request_policy is PolicyMode.PASS:
            if backend.pass_fields:
                yield (
                    f"backends[{index}].pass_fields has no effect:"
                    ' request_policy = "pass" sends every field'
                )
            continue
        policy = _policy(backend_class(backend.kind))
        known = _sent_names(policy)
        for name in backend.pass_fields:
            setting = f'backends[{index}].pass_fields: "{name}"'
            listed = {op: fields[name] for op, fields in policy.fields.items() if name in fields}
            if listed and name not in policy.without and not any(listed.values()):
                yield f"{setting} is sent to {backend.kind} anyway, in {', '.join(sorted(listed))}"
            # Most names here are in no list: only a very similar one is probably the one meant.
            elif name not in known and (close := _closest(name, known, cutoff=0.9)):
                yield f"{setting} is an unknown field{close}"
        for name in backend.strip_fields:
            if name in known:
                continue
            yield (
                f'backends[{index}].strip_fields: "{name}" is no field that is sent to'
                f" {backend.kind}{_closest(name, known)}"
            )


def _closest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return a question that names the most similar known name; "" if none is similar."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f'; did you mean "{close[0]}"?' if close else ""


def _policy(adapter: type[Backend]) -> RequestPolicy:
    return getattr(adapter, "request_policy", None) or default_policy(native=adapter.native)


def _sent_names(policy: RequestPolicy) -> list[str]:
    """Return the dotted names of the fields and types that the policy lists."""
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
