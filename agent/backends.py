"""Makes the backends that the configuration names, with their keys from the environment."""

from collections.abc import Mapping

from msgspec import Struct

from adapters.base import Backend, BackendSettings, TimeoutSettings
from adapters.registry import create_backend, is_native
from agent.config import BackendConfig, resolve_api_key


class SkippedBackend(Struct, frozen=True):
    """A configured backend that is not used.

    Attributes:
        backend_id: as `Backend.id` would be.
        kind: which adapter.
        reason: why, and what to do.
    """

    backend_id: str
    kind: str
    reason: str


class Backends(Struct, frozen=True):
    """What came of the configuration's `[[backends]]`.

    Attributes:
        usable: in the order of the configuration.
        markups: by backend id.
        skipped: those whose key is not set.
        tokens_per_minute: the operator's limits, by backend id.
    """

    usable: list[Backend]
    markups: dict[str, float | None]
    skipped: list[SkippedBackend]
    tokens_per_minute: dict[str, int] = {}


def make_backends(configs: tuple[BackendConfig, ...], environ: Mapping[str, str]) -> Backends:
    """Make every backend whose key is there; a missing key skips its backend, not the agent."""
    made = Backends([], {}, [], {})
    for config in configs:
        key = resolve_api_key(config, environ)
        if config.api_key_env is not None and key is None:
            made.skipped.append(_skipped(config))
            continue
        backend = create_backend(_settings(config, key))
        twins = sum(other.kind == backend.kind for other in made.usable)
        if any(other.id == backend.id for other in made.usable):
            # Two keys for one remote service: both are used, and told apart.
            backend.id = f"{backend.id}#{twins + 1}"
        made.usable.append(backend)
        if config.max_tokens_per_minute is not None:
            made.tokens_per_minute[backend.id] = config.max_tokens_per_minute
        made.markups[backend.id] = config.markup if not is_native(config.kind) else None
    return made


def _skipped(config: BackendConfig) -> SkippedBackend:
    local = is_native(config.kind) and config.url
    return SkippedBackend(
        f"{config.kind}:{config.url}" if local else config.kind,
        config.kind,
        f"skipped: the environment variable {config.api_key_env} (api_key_env) is not set",
    )


def _settings(config: BackendConfig, api_key: str | None) -> BackendSettings:
    timeouts = config.timeouts
    defaults = BackendSettings(kind=config.kind)
    return BackendSettings(
        kind=config.kind,
        url=config.url or "",
        api_key=api_key,
        models=config.models,
        aliases=config.alias,
        formats=config.formats or defaults.formats,
        max_concurrent=config.max_concurrent,
        timeouts=TimeoutSettings(
            connect_s=timeouts.connect_s,
            first_byte_s=timeouts.first_byte_s,
            silence_s=timeouts.silence_s,
            total_s=timeouts.total_s,
        ),
        request_policy=config.request_policy,
        venice_system_prompt=config.venice_system_prompt,
    )
