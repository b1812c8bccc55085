"""Creates the configured backends, with their API keys."""

from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct

from provider_agent.adapters.base import Backend, BackendSettings
from provider_agent.adapters.registry import AdapterError, backend_class, create_backend
from provider_agent.agent.availability.schedule import Schedule
from provider_agent.agent.config import BackendConfig, ConfigError, missing_key, resolve_api_key
from provider_agent.agent.config.schedules import schedule_of


class SkippedBackend(Struct, frozen=True):
    """A configured backend that is not used.

    Attributes:
        backend_id: the id that the backend would have.
        kind: the kind of the backend.
        reason: why the backend is not used.
    """

    backend_id: str
    kind: str
    reason: str


class Backends(Struct, frozen=True):
    """The backends created from the configuration's `[[backends]]`.

    Attributes:
        usable: the created backends, in the order of the configuration.
        markups: the markup on the upstream's prices, by backend id; None for native backends.
        skipped: backends whose configured key is missing or unusable.
        tokens_per_minute: the operator's limits, by backend id.
        created_from: the settings that each backend was created with, by backend id.
        overflow: the ids of the backends whose setting `overflow` is on.
        schedules: when each backend serves, by backend id; those without a schedule are missing.
    """

    usable: list[Backend]
    markups: dict[str, float | None] = {}
    skipped: list[SkippedBackend] = []
    tokens_per_minute: dict[str, int] = {}
    created_from: dict[str, BackendSettings] = {}
    overflow: set[str] = set()
    schedules: dict[str, Schedule] = {}


def make_backends(
    configs: tuple[BackendConfig, ...],
    environ: Mapping[str, str],
    *,
    before: Backends | None = None,
    busy_ids: Collection[str] = (),
) -> Backends:
    """Create the configured backends, and skip each one whose configured key is missing.

    Args:
        configs: the operator's `[[backends]]`.
        environ: the environment, for keys that are not in files.
        before: the backends in use, if any; those with unchanged settings and key are kept.
        busy_ids: ids of backends that execute jobs; a new backend receives another id.

    Raises:
        ConfigError: an adapter of a third party cannot be created.
    """
    created = Backends([])
    wanted: list[tuple[BackendConfig, BackendSettings]] = []
    for config in configs:
        key = resolve_api_key(config, environ)
        if key is None and (config.api_key_env or config.api_key_file):
            created.skipped.append(_skipped(config))
        else:
            wanted.append((config, _settings(config, key)))
    kept = _kept([settings for _, settings in wanted], before)
    taken = {backend.id for backend in kept if backend is not None} | set(busy_ids)
    for (config, settings), old in zip(wanted, kept, strict=True):
        backend = old or _with_unique_id(_create(settings, configs.index(config)), taken)
        taken.add(backend.id)
        created.usable.append(backend)
        created.created_from[backend.id] = settings
        if config.max_tokens_per_minute is not None:
            created.tokens_per_minute[backend.id] = config.max_tokens_per_minute
        if config.overflow:
            created.overflow.add(backend.id)
        if config.schedule is not None:
            created.schedules[backend.id] = schedule_of(config.schedule)
        created.markups[backend.id] = None if backend.native else config.markup
    return created


def _create(settings: BackendSettings, index: int) -> Backend:
    try:
        return create_backend(settings)
    except AdapterError as error:
        raise ConfigError(f"backends[{index}].kind: {error.problem}", error.advice) from error


def _kept(wanted: Sequence[BackendSettings], before: Backends | None) -> list[Backend | None]:
    """Return, for each of `wanted`, an existing backend with equal settings, or None.

    No backend is returned twice.
    """
    unused = list(before.usable) if before else []
    created_from = before.created_from if before else {}
    kept: list[Backend | None] = []
    for settings in wanted:
        same = next((one for one in unused if created_from.get(one.id) == settings), None)
        if same is not None:
            unused.remove(same)
        kept.append(same)
    return kept


def _with_unique_id(backend: Backend, taken: Collection[str]) -> Backend:
    """Append a number to the id of the backend if that id is taken.

    This happens with two keys of one remote service, and with a changed backend whose predecessor
    still executes jobs.
    """
    base_id, number = backend.id, 1
    while backend.id in taken:
        number += 1
        backend.id = f"{base_id}#{number}"
    return backend


def _skipped(config: BackendConfig) -> SkippedBackend:
    local = backend_class(config.kind).native and config.url
    return SkippedBackend(
        f"{config.kind}:{config.url}" if local else config.kind,
        config.kind,
        missing_key(config),
    )


def _settings(config: BackendConfig, api_key: str | None) -> BackendSettings:
    defaults = BackendSettings(kind=config.kind)
    return BackendSettings(
        kind=config.kind,
        url=config.url or "",
        api_key=api_key,
        models=config.models,
        aliases=config.alias,
        formats=config.formats or defaults.formats,
        max_concurrent=config.max_concurrent,
        timeouts=config.timeouts,
        request_policy=config.request_policy,
        pass_fields=config.pass_fields,
        strip_fields=config.strip_fields,
        media_urls=config.media_urls,
        max_output_tokens=config.max_output_tokens,
        venice_system_prompt=config.venice_system_prompt,
    )
