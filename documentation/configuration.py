"""The tables of `docs/configuration.md`, from the Structs of the configuration.

Everything but the last column comes from the code: keys, flags, variables, defaults and accepted
values. The meaning of a key that the page already explains is kept; a new key gets the text of its
Struct's docstring.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import inspect as types

from provider_agent.agent.config import BackendConfig
from provider_agent.agent.config.flags import FLAGS, variable_of
from provider_agent.agent.config.load import SECTIONS

_UNSET: Final = {
    "coordinator.ca_file": "the system's",
    "coordinator.client_key_file": "in `client_cert_file`",
    "coordinator.proxy": "`HTTPS_PROXY`, `NO_PROXY`",
    "identity.key_path": "`$XDG_CONFIG_HOME/provider-agent/identity.key`",
    "backends.url": "by kind, see below",
    "backends.markup": "`0`",
    "backends.models": "all; none for passthroughs",
    "backends.formats": '`["openai"]`',
    "backends.max_concurrent": "by kind",
    "backends.media_urls": "`data`; `any` for passthroughs",
    "backends.max_output_tokens": "`32768` for `ollama`, else none",
}
"""What the agent uses where a key without a default in its Struct is not set."""

_VALUES: Final = {
    "pricing.default_input_per_1m": 'at least 0, or text such as `"0.50 USD"`',
    "pricing.default_output_per_1m": 'at least 0, or text such as `"0.50 USD"`',
}
"""What the agent accepts for a key beyond the type in its Struct."""

_TABLE: Final = re.compile(r"^\| key \|.*\n(?:\|.*\n)+", re.MULTILINE)


class MissingSectionError(Exception):
    """The page does not describe a section of the configuration."""


def configuration_page(page: str) -> str:
    """Return the page with its tables as the code is now.

    Raises:
        MissingSectionError: there is no heading, or no table below it, for a section.
    """
    for name, struct in SECTIONS.items():
        page = _with_table(page, f"`[{name}]`", name, struct)
    return _with_table(page, "`[[backends]]`", "backends", BackendConfig)


def _with_table(page: str, heading: str, name: str, struct: type[msgspec.Struct]) -> str:
    start = page.find(f"\n## {heading}\n")
    end = page.find("\n## ", start + 1)
    section = page[start:end]
    found = _TABLE.search(section)
    if start < 0 or found is None:
        raise MissingSectionError(f"docs/configuration.md has no table below ## {heading}")
    meanings = dict(re.findall(r"^\| `([\w.]+)` \|.*? \| ([^|]*) \|$", found[0], re.MULTILINE))
    rows = "".join(_rows(name, struct, meanings))
    return page[:start] + section[: found.start()] + rows + section[found.end() :] + page[end:]


def _rows(name: str, struct: type[msgspec.Struct], meanings: dict[str, str]) -> Iterator[str]:
    columns = ["key", "flag", "variable", "default", "values", "meaning"]
    if name == "backends":
        columns = ["key", "default", "values", "meaning"]
    yield f"| {' | '.join(columns)} |\n"
    yield f"|{' --- |' * len(columns)}\n"
    for key, field, text in _fields(name, struct):
        cells = [f"`{key}`"]
        if name != "backends":
            cells += [f"`{FLAGS[key]}`" if key in FLAGS else "–", f"`{variable_of(key)}`"]
        values = _VALUES.get(key) or values_of(field.type)
        cells += [_default(key, field), values, meanings.get(key, text)]
        yield f"| {' | '.join(cells)} |\n"


def _fields(prefix: str, struct: type[msgspec.Struct]) -> Iterator[tuple[str, types.Field, str]]:
    information = types.type_info(struct)
    if not isinstance(information, types.StructType):
        raise TypeError(f"{struct} is not a Struct")
    texts = _attribute_texts(struct)
    for field in information.fields:
        key = f"{prefix}.{field.name}"
        nested = _without_none(field.type)
        if isinstance(nested, types.StructType):
            yield from _fields(key, nested.cls)
        else:
            yield key, field, texts.get(field.name, "")


def _attribute_texts(struct: type[msgspec.Struct]) -> dict[str, str]:
    text = inspect.cleandoc(struct.__doc__ or "").partition("Attributes:\n")[2]
    found = re.findall(r"^    (\w+): ((?:.+\n?(?:     .*\n?)*))", text + "\n", re.MULTILINE)
    return {name: " ".join(value.split()).rstrip(".") for name, value in found}


def _default(key: str, field: types.Field) -> str:
    default = field.default
    if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    if key in _UNSET:
        return _UNSET[key]
    if key.startswith("backends.timeouts."):
        return "by kind"
    if default is msgspec.NODEFAULT:
        return "required"
    if default is None or default in ((), {}):
        return "none"
    return f"`{_as_text(default)}`"


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _without_none(kind: types.Type) -> types.Type:
    if not isinstance(kind, types.UnionType):
        return kind
    others = [one for one in kind.types if not isinstance(one, types.NoneType)]
    return others[0] if len(others) == 1 else kind


def values_of(kind: types.Type) -> str:
    """Return which values a type accepts, for an operator."""
    match _without_none(kind):
        case types.BoolType():
            return "`true`, `false`"
        case types.IntType(ge=low, le=high) | types.FloatType(ge=low, le=high, gt=None):
            return _range(low, high)
        case types.FloatType(gt=low, le=high):
            return f"over {_as_text(low)}, at most {_as_text(high)}"
        case types.LiteralType(values=values):
            return ", ".join(f"`{value}`" for value in values)
        case types.EnumType(cls=cls):
            return ", ".join(f"`{member.value}`" for member in cls)
        case types.VarTupleType(item_type=item, max_length=most):
            limit = f", at most {most}" if most else ""
            return f"list{limit}: {values_of(item)}" if _is_choice(item) else f"list{limit}"
        case types.UnionType(types=several):
            return " or ".join(map(values_of, several))
        case types.DictType():
            return "table"
        case types.CustomType() | types.ExtType():
            return "path"
        case _:
            return "text"


def _is_choice(kind: types.Type) -> bool:
    return isinstance(kind, types.EnumType | types.LiteralType)


def _range(low: float | None, high: float | None) -> str:
    if high is None or high >= 2**53 - 1:
        return f"at least {_as_text(low)}"
    return f"{_as_text(low)} to {_as_text(high)}"
