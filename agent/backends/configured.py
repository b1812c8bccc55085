"""Makes the backends that the configuration names, with their keys."""

from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct

from provider_agent.adapters.base import Backend, BackendSettings, TimeoutSettings
from provider_agent.adapters.registry import create_backend, is_native
from provider_agent.agent.config import BackendConfig, missing_key, resolve_api_key


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
        skipped: those that have no key where they need one.
        tokens_per_minute: the operator's limits, by backend id.
        made_from: what each was made from, by backend id; a backend may fill its own settings in.
    """

    usable: list[Backend]
    markups: dict[str, float | None]
    skipped: list[SkippedBackend]
    tokens_per_minute: dict[str, int] = {}
    made_from: dict[str, BackendSettings] = {}


def make_backends(
    configs: tuple[BackendConfig, ...],
    environ: Mapping[str, str],
    *,
    before: Backends | None = None,
    busy_ids: Collection[str] = (),
) -> Backends:
    """Make every backend whose key is there; a missing key skips its backend, not the agent.

    Args:
        configs: the operator's list.
        environ: where keys are, beside files.
        before: those of a running agent; one whose settings and key are still the same goes on.
        busy_ids: ids that no new backend may have, for jobs still run under them.
    """
    made = Backends([], {}, [], {}, {})
    wanted: list[tuple[BackendConfig, BackendSettings]] = []
    for config in configs:
        key = resolve_api_key(config, environ)
        if key is None and (config.api_key_env or config.api_key_file):
            made.skipped.append(_skipped(config))
        else:
            wanted.append((config, _settings(config, key)))
    kept = _kept([settings for _, settings in wanted], before)
    taken = {backend.id for backend in kept if backend is not None} | set(busy_ids)
    for (config, settings), old in zip(wanted, kept, strict=True):
        backend = old or _named_apart(create_backend(settings), taken)
        taken.add(backend.id)
        made.usable.append(backend)
        made.made_from[backend.id] = settings
        if config.max_tokens_per_minute is not None:
            made.tokens_per_minute[backend.id] = config.max_tokens_per_minute
        made.markups[backend.id] = config.markup if not is_native(config.kind) else None
    return made


def _kept(wanted: Sequence[BackendSettings], before: Backends | None) -> list[Backend | None]:
    """For each of the wanted settings the backend that has them already, each of those once."""
    left = list(before.usable) if before else []
    made_from = before.made_from if before else {}
    kept: list[Backend | None] = []
    for settings in wanted:
        same = next((one for one in left if made_from.get(one.id) == settings), None)
        if same is not None:
            left.remove(same)
        kept.append(same)
    return kept


def _named_apart(backend: Backend, taken: Collection[str]) -> Backend:
    """The backend with an id of its own.

    Two keys for one remote service are both used, and so are a backend that the operator has
    changed and its old self while jobs still run there.
    """
    plain, number = backend.id, 1
    while backend.id in taken:
        number += 1
        backend.id = f"{plain}#{number}"
    return backend


def _skipped(config: BackendConfig) -> SkippedBackend:
    local = is_native(config.kind) and config.url
    return SkippedBackend(
        f"{config.kind}:{config.url}" if local else config.kind,
        config.kind,
        f"skipped: {missing_key(config)}",
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
