"""Checks the names in `pass_fields` and `strip_fields`."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Final

from provider_agent.adapters.base import Backend
from provider_agent.adapters.registry import backend_class
from provider_agent.adapters.requests.policy import default_policy
from provider_agent.agent.config.errors import bad_value
from provider_agent.agent.config.schema import BackendConfig

_REQUIRED: Final = frozenset({"model", "messages", "prompt", "input", "stream"})
"""Fields that the agent reads and checks itself; without them, a job fails."""


def check_request_fields(backend: BackendConfig, origin: str, key: str) -> None:
    """Refuse names of fields that a job always needs.

    Raises:
        ConfigError: `pass_fields` or `strip_fields` of the backend has such a name.
    """
    for setting in ("pass_fields", "strip_fields"):
        for name in getattr(backend, setting):
            if name in _REQUIRED:
                reason = f'"{name}" is a field that every job needs and the agent checks'
                raise bad_value(origin, f"{key}.{setting}", reason, "remove it from the list")


def unknown_stripped_fields(backends: Iterable[BackendConfig]) -> Iterator[str]:
    """Yield a warning for each name in `strip_fields` that is not sent anyway: probably a typo.

    Of a dotted name, only the part before the first dot is compared.
    """
    for index, backend in enumerate(backends):
        known = _sent_fields(backend_class(backend.kind))
        for name in backend.strip_fields:
            field = name.partition(".")[0]
            if field in known:
                continue
            close = difflib.get_close_matches(field, sorted(known), n=1)
            question = f'; did you mean "{close[0]}"?' if close else ""
            yield (
                f'backends[{index}].strip_fields: "{name}" is no field that is sent to'
                f" {backend.kind}{question}"
            )


def _sent_fields(adapter: type[Backend]) -> frozenset[str]:
    policy = getattr(adapter, "request_policy", None) or default_policy(native=adapter.native)
    return frozenset(name for fields in policy.fields.values() for name in fields)
