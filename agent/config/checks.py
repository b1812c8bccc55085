"""Validation beyond the types: addresses, kinds, duplicates, settings that require each other."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from provider_agent.adapters.base import Backend
from provider_agent.adapters.registry import backend_class
from provider_agent.adapters.responses.redaction import redact
from provider_agent.advised_error import AdvisedError
from provider_agent.agent.config.addresses import (
    backend_url,
    coordinator_url,
    host_name,
    listen_address,
    proxy_url,
)
from provider_agent.agent.config.errors import ErrorCollector, bad_value, with_ordinal
from provider_agent.agent.config.files import expand
from provider_agent.agent.config.kind_names import unknown_kind_advice
from provider_agent.agent.config.request_fields import check_request_fields
from provider_agent.agent.config.schedules import validate_backend_schedules, validate_schedule
from provider_agent.agent.config.schema import (
    BackendConfig,
    Config,
    CoordinatorConfig,
    ObservabilityConfig,
    PricingConfig,
)

T = TypeVar("T")


def validate(
    config: Config,
    origins: Mapping[str, str],
    environ: Mapping[str, str],
    known_kinds: Collection[str],
    *,
    errors: ErrorCollector,
    skipped: Collection[str],
    places: Sequence[int],
) -> Config:
    """Return the settings with paths expanded and addresses normalized.

    Args:
        config: settings of the right types.
        origins: dotted key → its origin, for error messages.
        environ: the environment, for expanding paths.
        known_kinds: kinds of the installed adapters.
        errors: receives an error for each section, and each backend, that is not valid.
        skipped: sections that are not checked, because they are invalid already.
        places: the index of each backend, for error messages.
    """
    if "pricing" not in skipped:
        with errors.collect():
            _check_pricing(config.pricing, origins)
    changed: dict[str, object] = {
        "identity": replace(
            config.identity, key_path=expand(str(config.identity.key_path), environ)
        )
    }
    if "coordinator" not in skipped:
        with errors.collect():
            changed["coordinator"] = _coordinator(config.coordinator, origins, environ)
    if "schedule" not in skipped:
        with errors.collect():
            validate_schedule(config.schedule, origins)
    origin = origins.get("backends", "")
    backends = dict(zip(places, config.backends, strict=True))
    changed["backends"] = _backends(
        validate_backend_schedules(backends, config.schedule.time_zone, origin, errors),
        origin,
        environ,
        known_kinds,
        errors,
    )
    if "observability" not in skipped:
        with errors.collect():
            changed["observability"] = _observability(config.observability, origins, environ)
    return replace(config, **changed)


def _coordinator(
    section: CoordinatorConfig, origins: Mapping[str, str], environ: Mapping[str, str]
) -> CoordinatorConfig:
    url = _coordinator_url("coordinator.url", section.url, section, origins)
    fallback_urls = tuple(
        _coordinator_url(f"coordinator.fallback_urls[{index}]", text, section, origins)
        for index, text in enumerate(section.fallback_urls)
    )
    if len({url, *fallback_urls}) <= len(fallback_urls):
        reason = "an address occurs twice, or equals coordinator.url"
        key = "coordinator.fallback_urls"
        raise bad_value(origins[key], key, reason, "remove one of them")
    if section.client_key_file and not section.client_cert_file:
        raise bad_value(
            origins["coordinator.client_key_file"],
            "coordinator.client_cert_file",
            "missing",
            "set it, or remove client_key_file",
        )
    proxy = section.proxy or None
    if proxy is not None:
        _parse_setting(
            "coordinator.proxy",
            origins["coordinator.proxy"],
            lambda: proxy_url(section.proxy or ""),
        )
    return replace(
        section,
        url=url,
        fallback_urls=fallback_urls,
        proxy=proxy,
        token_file=_expanded(section.token_file, environ),
        ca_file=_expanded(section.ca_file, environ),
        client_cert_file=_expanded(section.client_cert_file, environ),
        client_key_file=_expanded(section.client_key_file, environ),
    )


def _coordinator_url(
    key: str, text: str, section: CoordinatorConfig, origins: Mapping[str, str]
) -> str:
    origin = origins[key.partition("[")[0]]
    insecure = section.allow_insecure
    return _parse_setting(key, origin, lambda: coordinator_url(text, allow_insecure=insecure))


def _expanded(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    return None if path is None else expand(str(path), environ)


def _observability(
    section: ObservabilityConfig, origins: Mapping[str, str], environ: Mapping[str, str]
) -> ObservabilityConfig:
    key = "observability.allowed_hosts"
    hosts = tuple(
        _parse_setting(f"{key}[{index}]", origins[key], partial(host_name, text))
        for index, text in enumerate(section.allowed_hosts)
    )
    ledger_path = _expanded(section.ledger_path, environ)
    section = replace(section, ledger_path=ledger_path, allowed_hosts=hosts)
    address = section.prometheus_addr.strip()
    if address in ("", "off"):
        return replace(section, prometheus_addr="")
    key = "observability.prometheus_addr"
    _parse_setting(key, origins[key], lambda: listen_address(address))
    return replace(section, prometheus_addr=address)


def _check_pricing(section: PricingConfig, origins: Mapping[str, str]) -> None:
    if (section.default_input_per_1m is None) == (section.default_output_per_1m is None):
        return
    missing, given = "default_input_per_1m", "default_output_per_1m"
    if section.default_input_per_1m is not None:
        missing, given = given, missing
    raise bad_value(
        origins[f"pricing.{given}"],
        f"pricing.{missing}",
        f"missing, while {given} is set",
        "set both or neither",
    )


def _backends(
    backends: Mapping[int, BackendConfig],
    origin: str,
    environ: Mapping[str, str],
    known_kinds: Collection[str],
    errors: ErrorCollector,
) -> tuple[BackendConfig, ...]:
    """Validate each backend, and refuse two of one kind with one address (passthrough: one key)."""
    seen: dict[tuple[str, object, object], int] = {}
    result = []
    for index, raw in backends.items():
        with errors.collect():
            backend = _backend(raw, origin, f"backends[{index}]", known_kinds)
            backend = replace(backend, api_key_file=_expanded(raw.api_key_file, environ))
            _check_duplicate(backend, origin, index, seen)
            result.append(backend)
    return tuple(result)


def _check_duplicate(
    backend: BackendConfig, origin: str, index: int, seen: dict[tuple[str, object, object], int]
) -> None:
    adapter = backend_class(backend.kind)
    passthrough = not adapter.native
    key = (backend.api_key_env or backend.api_key_file) if passthrough else None
    url = backend.url if adapter.native or adapter.requires_url else None
    first = seen.setdefault((backend.kind, key, url), index)
    if first != index:
        shared = "key" if passthrough else "address"
        raise bad_value(
            origin,
            f"backends[{index}]",
            f"the same kind and {shared} as {with_ordinal(f'backends[{first}]')}",
            "remove one of them",
        )


def _backend(
    backend: BackendConfig, origin: str, key: str, known_kinds: Collection[str]
) -> BackendConfig:
    kind = backend.kind
    if kind not in known_kinds:
        advice = unknown_kind_advice(kind, known_kinds)
        raise bad_value(origin, f"{key}.kind", f'unknown kind "{kind}"', advice)
    adapter = _parse_setting(f"{key}.kind", origin, lambda: backend_class(kind))
    _check_key(backend, adapter, origin, key)
    if adapter.requires_url and backend.url is None:
        raise bad_value(origin, f"{key}.url", "missing", 'set it, such as "http://127.0.0.1:9000"')
    if backend.formats is not None and not adapter.accepts_formats:
        reason = f"{kind} does not accept it"
        raise bad_value(origin, f"{key}.formats", reason, "remove it, or use openai_compatible")
    _check_passthrough_settings(backend, adapter, origin, key)
    check_request_fields(backend, origin, key)
    text = backend.url or adapter.default_url
    url = _parse_setting(f"{key}.url", origin, lambda: backend_url(text)) if text else None
    return replace(backend, url=url)


def _check_passthrough_settings(
    backend: BackendConfig, adapter: type[Backend], origin: str, key: str
) -> None:
    """Refuse settings of passthroughs at kinds where they have no effect."""
    kind = backend.kind
    if backend.overflow and adapter.native:
        reason = f"{kind} is not a passthrough"
        raise bad_value(origin, f"{key}.overflow", reason, "set it at the passthrough")
    if backend.venice_system_prompt and kind != "venice":
        reason = f"{kind} does not accept it"
        raise bad_value(origin, f"{key}.venice_system_prompt", reason, "remove it")


def _check_key(backend: BackendConfig, adapter: type[Backend], origin: str, key: str) -> None:
    """Refuse a key with two sources, a missing required key, and a key in the configuration."""
    name, path = backend.api_key_env, backend.api_key_file
    if name is not None and path is not None:
        reason = "api_key_env is set as well"
        raise bad_value(origin, f"{key}.api_key_file", reason, "remove one of them")
    if not adapter.native and name is None and path is None:
        advice = (
            f"{backend.kind} needs a key: set the name of the environment variable that holds it, "
            "or its file in api_key_file"
        )
        raise bad_value(origin, f"{key}.api_key_env", "missing", advice)
    # A value that is no name or path is probably the key itself, so the message does not show it.
    if name is not None and not name.isidentifier():
        reason = "expected the name of an environment variable, not the key itself"
        advice = "put the key into a variable, and its name here"
        raise bad_value(origin, f"{key}.api_key_env", reason, advice)
    if path is not None and redact(str(path), ()) != str(path):
        reason = "expected the path of a file, not the key itself"
        advice = "put the key into a file, and its path here"
        raise bad_value(origin, f"{key}.api_key_file", reason, advice)


def _parse_setting(key: str, origin: str, parse: Callable[[], T]) -> T:
    """Call `parse`; turn its ValueError into a `ConfigError` for `key`."""
    try:
        return parse()
    except ValueError as error:
        if isinstance(error, AdvisedError):
            raise bad_value(origin, key, error.problem, error.advice) from error
        raise bad_value(origin, key, str(error)) from error
