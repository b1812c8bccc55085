"""Merges file, environment and flags into one validated `Config`, with the origin of every value.

For each key on its own, a flag wins over the environment, the environment over the file, and the
file over the default.
"""

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from provider_agent.agent.config.checks import validate
from provider_agent.agent.config.convert import (
    check_known_inside,
    convert,
    convert_backends,
    parse_variable,
    unknown_keys,
)
from provider_agent.agent.config.dialect import USEPOD, is_usepod_address
from provider_agent.agent.config.errors import (
    ConfigError,
    ErrorCollector,
    bad_value,
    did_you_mean,
)
from provider_agent.agent.config.files import default_key_path, find_file, read_file, search_path
from provider_agent.agent.config.flags import (
    CONFIG_VARIABLE,
    ENVIRONMENT_PREFIX,
    FLAGS,
    variable_of,
)
from provider_agent.agent.config.low_prices import low_prices
from provider_agent.agent.config.markups import markup_warnings
from provider_agent.agent.config.prices import to_millionths
from provider_agent.agent.config.request_fields import request_field_warnings
from provider_agent.agent.config.schema import (
    BackendConfig,
    Config,
    CoordinatorConfig,
    DiscoveryConfig,
    IdentityConfig,
    LimitsConfig,
    ObservabilityConfig,
    OperatorConfig,
    PricingConfig,
    ScheduleConfig,
)

DEFAULT: Final = "default"

SECTIONS: Final[dict[str, type[msgspec.Struct]]] = {
    "operator": OperatorConfig,
    "coordinator": CoordinatorConfig,
    "identity": IdentityConfig,
    "pricing": PricingConfig,
    "limits": LimitsConfig,
    "discovery": DiscoveryConfig,
    "schedule": ScheduleConfig,
    "observability": ObservabilityConfig,
}
"""The tables of the file, except `backends`, which is a list of tables."""

_STRUCTURED: Final = frozenset(
    {
        "backends",
        "pricing.models",
        "coordinator.fallback_urls",
        "observability.allowed_hosts",
        "schedule.windows",
    }
)
"""Keys that hold a list or tables; their environment variables contain JSON."""

_LEVEL_ALIASES: Final = {"warn": "warning", "trace": "debug"}
"""Rust's names of levels, which files of the existing Rust agent may contain."""

_PLACEHOLDERS: Final[dict[str, object]] = {
    "coordinator.url": "wss://placeholder.invalid",
    "identity.key_path": Path("placeholder"),
}
"""Values of required keys whose value is not valid, so that the other settings are checked."""

SectionT = TypeVar("SectionT", bound=msgspec.Struct)
T = TypeVar("T")


class LoadedConfig(msgspec.Struct, frozen=True):
    """The settings and their origins.

    Attributes:
        config: the settings.
        origins: dotted key → "default", the file's path, "environment PROVIDER_AGENT_…" or
            "flag --…".
        path: the file that was read; None without a file.
        warnings: warnings for the operator, one sentence each.
    """

    config: Config
    origins: dict[str, str]
    path: Path | None
    warnings: tuple[str, ...] = ()


def load_config(
    path: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, object],
    known_kinds: Collection[str],
) -> LoadedConfig:
    """Read, merge and validate all settings.

    Args:
        path: the file named by `--config`; None searches the default places.
        environ: the environment.
        overrides: dotted key → value of its flag; None if the flag was not given.
        known_kinds: kinds of the installed adapters.

    Raises:
        ConfigError: the file cannot be read, or a setting is missing, unknown, of the wrong type or
            out of range.
    """
    found = find_file(path, environ)
    raw = read_file(found) if found is not None else {}
    errors = ErrorCollector()
    sources = _Sources(raw, str(found or ""), environ, overrides, errors)
    sources.check_names()
    config = Config(
        operator=sources.section("operator", OperatorConfig),
        coordinator=sources.section("coordinator", CoordinatorConfig),
        identity=sources.section("identity", IdentityConfig),
        backends=sources.backends(),
        pricing=sources.section("pricing", PricingConfig),
        limits=sources.section("limits", LimitsConfig),
        discovery=sources.section("discovery", DiscoveryConfig),
        schedule=sources.section("schedule", ScheduleConfig),
        observability=sources.section("observability", ObservabilityConfig),
    )
    checked = validate(
        config,
        sources.origins,
        environ,
        known_kinds,
        errors=errors,
        skipped=sources.invalid,
        places=sources.places,
    )
    errors.raise_errors()
    warnings = (
        *unknown_variables(environ),
        *low_prices(checked.pricing, sources.in_dollars),
        *request_field_warnings(checked.backends),
        *markup_warnings(checked.backends),
    )
    return LoadedConfig(checked, sources.origins, found, warnings)


def known_keys() -> tuple[str, ...]:
    """Return every dotted key that can be set by a variable, in the order of the documentation."""
    sections = tuple(
        f"{section}.{name}"
        for section, struct in SECTIONS.items()
        for name in struct.__struct_fields__
    )
    return (*sections, "backends")


def unknown_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return a warning for each variable whose name is almost that of a setting.

    An unknown variable is not an error: Kubernetes sets variables with this prefix for a service
    named provider-agent.
    """
    known = {variable_of(key) for key in known_keys()} | {CONFIG_VARIABLE}
    prefixed = sorted(name for name in environ if name.startswith(ENVIRONMENT_PREFIX))
    close = {
        name: difflib.get_close_matches(name, known, n=1, cutoff=0.9)
        for name in prefixed
        if name not in known
    }
    return tuple(
        f"the environment variable {name} is not used; did you mean {match[0]}?"
        for name, match in close.items()
        if match
    )


class _Sources:
    """The sources of a value (flags, environment, file), and the origin of each value.

    Attributes:
        origins: dotted key → its origin, of the keys that were read.
        in_dollars: the dotted keys of the prices that were given with their unit.
        invalid: the sections in which a key or value is not valid; their other values must not be
            compared with each other.
        places: the index of each backend in its list, which also has those of the wrong types.
    """

    def __init__(
        self,
        file: Mapping[str, object],
        file_name: str,
        environ: Mapping[str, str],
        overrides: Mapping[str, object],
        errors: ErrorCollector,
    ) -> None:
        self.origins: dict[str, str] = {}
        self.in_dollars: set[str] = set()
        self._file = file
        self._file_name = file_name
        self._environ = environ
        self._overrides = overrides
        self.invalid: set[str] = set()
        self.places: tuple[int, ...] = ()
        self._errors = errors
        self._has_unknown_names = False

    def check_names(self) -> None:
        """Collect an error for each unknown section and key of the file."""
        known = (*SECTIONS, "backends")
        for name, table in self._file.items():
            if name not in known:
                hint = did_you_mean(name, known)
                found = [ConfigError(f"{self._file_name}: {name}: unknown section", hint)]
            elif name in SECTIONS:
                found = list(unknown_keys(table, SECTIONS[name], self._file_name, name))
            else:
                continue
            self._errors.errors += found
            if found:
                self._has_unknown_names = True
                self.invalid.add(name)

    def section(self, section: str, struct: type[SectionT]) -> SectionT:
        """Return one section, each value from the source with the highest precedence.

        An invalid value has its default, or `_PLACEHOLDERS`, and its error is collected.
        """
        values: dict[str, object] = {}
        for field in msgspec.structs.fields(struct):
            key = f"{section}.{field.name}"
            count = len(self._errors.errors)
            with self._errors.collect():
                raw, origin = self._find(key)
                self.origins[key] = origin
                if origin != DEFAULT:
                    values[field.name] = self._convert(raw, field.type, origin, key)
                elif field.required:
                    values[field.name] = self._required_default(key)
            if len(self._errors.errors) > count:
                self.invalid.add(section)
                if field.required:
                    values[field.name] = _PLACEHOLDERS[key]
        return struct(**values)

    def backends(self) -> tuple[BackendConfig, ...]:
        """Return the backends of the right types; collect an error for each of the others."""
        with self._errors.collect():
            raw, origin = self._find("backends")
            self.origins["backends"] = origin
            if origin != DEFAULT:
                backends = convert_backends(raw, origin, self._errors)
                self.places = tuple(backends)
                return tuple(backends.values())
        return ()

    def _convert(self, raw: object, target: type[T], origin: str, key: str) -> T:
        if key.startswith("pricing."):
            raw = to_millionths(raw, key, self.in_dollars)
        if key in _STRUCTURED:
            check_known_inside(raw, origin, key)
        if key == "observability.log_level" and isinstance(raw, str):
            raw = _LEVEL_ALIASES.get(raw.lower(), raw.lower())
        # TOML and JSON values have types. A plain variable or flag is a string that `convert` must
        # parse, so the conversion is not strict.
        strict = origin == self._file_name or key in _STRUCTURED
        return convert(raw, target, origin=origin, key=key, strict=strict)

    def _find(self, key: str) -> tuple[object, str]:
        """Return the raw value of a key and its origin. An empty variable counts as not set."""
        if (flag := self._overrides.get(key)) is not None:
            return flag, f"flag {FLAGS[key]}"
        return self._find_without_flag(key)

    def _find_without_flag(self, key: str) -> tuple[object, str]:
        variable = variable_of(key)
        if text := self._environ.get(variable):
            origin = f"environment {variable}"
            return (parse_variable(text, origin, key) if key in _STRUCTURED else text), origin
        section, _, name = key.partition(".")
        value = self._file.get(section)
        if name:
            value = value.get(name) if isinstance(value, dict) else None
        return (None, DEFAULT) if value is None else (value, self._file_name)

    def _is_usepod(self) -> bool:
        """Whether the coordinator of the file and the environment speaks the dialect `usepod`.

        Flags are left out, so that every command uses the same key: not all commands have them.
        """
        dialect, _ = self._find_without_flag("coordinator.dialect")
        url, _ = self._find_without_flag("coordinator.url")
        if dialect is not None:
            return dialect == USEPOD
        return isinstance(url, str) and is_usepod_address(url.strip())

    def _required_default(self, key: str) -> object:
        """Return the value of a key that the section requires and no source sets.

        Raises:
            ConfigError: the key is not `identity.key_path`, the only one with a default.
        """
        if key == "identity.key_path":
            return default_key_path(self._environ, is_usepod=self._is_usepod())
        if self._has_unknown_names:  # one of them is probably this one
            return _PLACEHOLDERS[key]
        advice = f"set it, or {variable_of(key)}"
        if key in FLAGS:
            advice += f", or `run {FLAGS[key]}`"
        if self._file_name:
            raise bad_value(self._file_name, key, "missing", advice)
        places = ", ".join(str(place) for place in search_path(self._environ))
        init = f"`provider-agent init` writes the file (there is none at {places})"
        raise ConfigError(f"{key}: missing", f"{init}; or {advice}")
