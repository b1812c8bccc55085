"""Converts values of a file, a variable or a flag to the types of the schema."""

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from provider_agent.adapters.settings import TimeoutSettings
from provider_agent.agent.config.errors import ConfigError, ErrorCollector, bad_value, did_you_mean
from provider_agent.agent.config.prices import bad_price
from provider_agent.agent.config.schema import (
    BackendConfig,
    Name,
    Price,
    ScheduleConfig,
    WindowConfig,
)

T = TypeVar("T")

_PATH: Final = re.compile(r" - at `(key in )?\$(?P<path>[^`]*)`$")
_LAST_NAME: Final = re.compile(r"\.(\w+)(\[\d+\])?$")
_BACKEND_TYPES: Final = get_type_hints(BackendConfig)
"""The type of each key of one backend, from which an error lists the choices of an enumeration. No
other nested key is an enumeration."""

_ONE_BACKEND: Final = "write [[backends]], in two pairs of brackets, above each of them"
_ONE_BACKEND_IN_JSON: Final = "put it into a list, in [ ]"
_TYPE_NAMES: Final = re.compile(r"`([a-z| ]+)`")
_NAMES: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "a string in quotes",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "time": "a time",
    "date": "a date",
    "datetime": "a time",
}
_TEXT_FOR_A_LIST: Final = f"expected {_NAMES['array']}, got {_NAMES['str']}"
_LIST_ADVICE: Final = 'write ["…"], in square brackets'
_JSON_SAMPLES: Final = {
    "backends": '[{"kind": "ollama"}]',
    "pricing.models": '{"model": {"input_per_1m": 1, "output_per_1m": 2}}',
    "observability.allowed_hosts": '["agent.example"]',
    "coordinator.fallback_urls": '["wss://other.example/provider/connect"]',
    "schedule.windows": '[{"days": ["mon"], "start": "18:00", "end": "08:00"}]',
}


def field_names(struct: type[msgspec.Struct]) -> tuple[str, ...]:
    """Return the keys of one section, in order."""
    return struct.__struct_fields__


def unknown_keys(
    raw: object, struct: type[msgspec.Struct], origin: str, key: str
) -> Iterator[ConfigError]:
    """Return an error for each key that the section does not define.

    Each has `origin`, the dotted key and the closest known key.
    """
    if not isinstance(raw, dict):
        advice = f"write [{key}], in one pair of brackets" if _is_list_of_tables(raw) else ""
        yield bad_value(origin, key, f"expected a table, got {_describe(raw)}", advice)
        return
    known = field_names(struct)
    for name, value in raw.items():
        if name in known:
            continue
        if struct is Price and isinstance(value, dict):
            yield _unquoted(origin, key, name, value)
        else:
            yield bad_value(origin, f"{key}.{name}", "unknown key", did_you_mean(name, known))


def check_known(raw: object, struct: type[msgspec.Struct], origin: str, key: str) -> None:
    """Refuse keys that the section does not define.

    Raises:
        ConfigError: the first error of `unknown_keys`.
    """
    for error in unknown_keys(raw, struct, origin, key):
        raise error


def check_known_inside(raw: object, origin: str, key: str) -> None:
    """Refuse unknown keys inside `pricing.models` and `schedule.windows`, which contain tables.

    Raises:
        ConfigError: as `check_known`.
    """
    if key == "schedule.windows":
        _check_windows(raw, origin, key)
    if key == "pricing.models" and isinstance(raw, dict):
        for model_id, price in raw.items():
            place = f'pricing.models."{model_id}"'
            check_known(price, Price, origin, place)
            # Otherwise the path in msgspec's message is `[...]`, without the model.
            convert(price, Price, origin=origin, key=place, strict=True)


def convert_backends(raw: object, origin: str, errors: ErrorCollector) -> dict[int, BackendConfig]:
    """Return the backends of the right types by index; collect an error for each of the others.

    Raises:
        ConfigError: `raw` is no list.
    """
    if isinstance(raw, dict):
        in_json = origin.startswith("environment ")
        advice = _ONE_BACKEND_IN_JSON if in_json else _ONE_BACKEND
        raise bad_value(origin, "backends", "expected a list of tables, got one table", advice)
    if not isinstance(raw, list):
        convert(raw, list[BackendConfig], origin=origin, key="backends", strict=True)
        return {}
    backends = {}
    for index, backend in enumerate(raw):
        with errors.collect():
            backends[index] = _backend(backend, origin, f"backends[{index}]")
    return backends


def _backend(raw: object, origin: str, place: str) -> BackendConfig:
    check_known(raw, BackendConfig, origin, place)
    if isinstance(raw, dict) and "timeouts" in raw:
        check_known(raw["timeouts"], TimeoutSettings, origin, f"{place}.timeouts")
    if isinstance(raw, dict) and isinstance(schedule := raw.get("schedule"), dict):
        check_known(schedule, ScheduleConfig, origin, f"{place}.schedule")
        _check_windows(schedule.get("windows"), origin, f"{place}.schedule.windows")
    if isinstance(raw, dict) and isinstance(raw.get("alias"), dict):
        _check_aliases(raw["alias"], origin, f"{place}.alias")
    return convert(raw, BackendConfig, origin=origin, key=place, strict=True)


def _check_windows(windows: object, origin: str, key: str) -> None:
    if isinstance(windows, dict):
        advice = 'write [{ start = "18:00", end = "08:00" }], in square brackets'
        raise bad_value(origin, key, "expected a list of tables, got one table", advice)
    if isinstance(windows, list):
        for index, window in enumerate(windows):
            check_known(window, WindowConfig, origin, f"{key}[{index}]")


def _check_aliases(aliases: Mapping[str, object], origin: str, key: str) -> None:
    for alias, target in aliases.items():
        place = f'{key}."{alias}"'
        if isinstance(target, dict):
            raise _unquoted(origin, place, "", target)
        convert(target, Name, origin=origin, key=place, strict=True)


def _unquoted(origin: str, key: str, name: str, value: object) -> ConfigError:
    """Return the error for a model name with dots, which TOML reads as nested tables.

    Args:
        origin: the origin of the value.
        key: the dotted key of the outermost table; ends with the table's name in quotes.
        name: the key in that table whose value is `value`; "" if `value` is that table.
        value: the table that contains the rest of the model name, if any.
    """
    parts = [key.split('"')[-2], *([name] if name else [])]
    while isinstance(value, dict) and value and not set(value) & set(field_names(Price)):
        parts.append(next(iter(value)))
        value = value[parts[-1]]
    advice = f'put the model name in quotes: "{".".join(parts)}"'
    return bad_value(origin, key, "a table in a table; a name with dots is not in quotes", advice)


def convert(raw: object, target: type[T], *, origin: str, key: str, strict: bool) -> T:
    """Return `raw` as a value of `target`.

    Args:
        raw: the value in the file, the variable or the flag.
        target: the type of the field.
        origin: the origin of the value, the first part of the error message.
        key: the dotted key of the setting.
        strict: False also accepts a string for a number or a boolean, as in variables.

    Raises:
        ConfigError: the value has the wrong type or is out of range.
    """
    try:
        return msgspec.convert(raw, target, strict=strict, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        place, reason = _explain(str(error), target)
        if not strict:
            reason = _without_quotes(reason)
        if key.startswith("pricing.") and reason.startswith("expected a whole number"):
            value = raw.get(place.removeprefix(".")) if isinstance(raw, dict) else raw
            raise bad_price(origin, key + place, reason, value, in_quotes=strict) from error
        advice = _LIST_ADVICE if strict and reason == _TEXT_FOR_A_LIST else ""
        raise bad_value(origin, key + place, reason, advice) from error


def parse_variable(text: str, origin: str, key: str) -> object:
    """Decode the JSON in a variable whose key holds a list or a table.

    Raises:
        ConfigError: it is not JSON.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise bad_value(origin, key, f"expected JSON, such as {_JSON_SAMPLES[key]}") from error


def _decode_path(target: type, raw: object) -> Path:
    """Decode a path, the only type of the schema that msgspec does not support."""
    if isinstance(raw, Path):
        return raw
    if target is not Path or not isinstance(raw, str) or not raw or "\0" in raw:
        raise ValueError(f"Expected the path of a file, as {_NAMES['str']}")
    return Path(raw)


def _explain(message: str, target: object) -> tuple[str, str]:
    """Return the path below the key and a readable reason, parsed from msgspec's message."""
    path = ""
    if match := _PATH.search(message):
        path = match["path"]
        message = message[: match.start()]
    if "missing required field" in message:
        return path, f"{message.rpartition(' ')[2].strip('`')} is missing"
    if message.startswith("Invalid enum value"):
        field = _LAST_NAME.search(path)
        choices = _choices(target if field is None else _BACKEND_TYPES[field[1]])
        return path, f"expected one of: {', '.join(choices)}"
    message = _TYPE_NAMES.sub(_plain_type, message)
    return path, message[:1].lower() + message[1:]


def _without_quotes(reason: str) -> str:
    """Adapt the reason to a variable or a flag, where a string has no quotes.

    It says `got text` instead of the value, which may be a secret in the wrong variable.
    """
    reason = reason.removesuffix(f", as {_NAMES['str']}")
    return reason.replace(f"got {_NAMES['str']}", "got text")


def _choices(target: object) -> tuple[str, ...]:
    """Return the values of the only enumeration or literal in a type."""
    if isinstance(target, type) and issubclass(target, StrEnum):
        return tuple(target)
    if get_origin(target) is Literal:
        return get_args(target)
    return next(filter(None, map(_choices, get_args(target))), ())


def _plain_type(match: re.Match[str]) -> str:
    names = [name for name in match[1].split(" | ") if name != "null"]
    return " or ".join(_NAMES.get(name, name) for name in names)


def _is_list_of_tables(raw: object) -> bool:
    return isinstance(raw, list) and bool(raw) and isinstance(raw[0], dict)


def _describe(raw: object) -> str:
    return _NAMES.get(type(raw).__name__, "a list" if isinstance(raw, list) else "another value")
