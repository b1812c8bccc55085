"""The notation of docs/protocol.md for the types and defaults of fields."""

import msgspec
from msgspec.inspect import (
    BoolType,
    BytesType,
    DictType,
    FloatType,
    IntType,
    ListType,
    NoneType,
    StrType,
    StructType,
    Type,
    UnionType,
    multi_type_info,
)

from provider_agent.protocol.limits import MAX_INTEGER


def describe_fields(struct: type[msgspec.Struct]) -> list[list[str]]:
    """Name, type and default of each field, as the tables of the document show them."""
    (info,) = multi_type_info([struct])
    assert isinstance(info, StructType)
    return [
        [field.name, describe_type(field.type), "–" if field.required else _default(default)]
        for field, default in zip(info.fields, msgspec.structs.fields(struct), strict=True)
    ]


def describe_type(info: Type) -> str:
    """A type with its limits, such as "`str ≤ 512`" or "`[LiveJob]`, at most 4096"."""
    match info:
        case UnionType():
            return " or ".join(describe_type(one) for one in info.types)
        case IntType() if (info.ge, info.le) == (0, MAX_INTEGER):
            return "`uint`"
        case IntType():
            return f"`uint`, {info.ge} … {info.le}"
        case ListType() | DictType() if info.max_length is not None:
            return f"`{_bare(info)}`, at most {info.max_length}"
        case _:
            return f"`{_bare(info)}`"


def _bare(info: Type) -> str:
    match info:
        case BytesType() if info.min_length is not None and info.min_length == info.max_length:
            return f"bin({info.max_length})"
        case BytesType():
            return "bin" if info.max_length is None else f"bin ≤ {info.max_length}"
        case StrType():
            return f"str ≤ {info.max_length}"
        case ListType():
            return f"[{_bare(info.item_type)}]"
        case DictType():
            return f"{{{_bare(info.key_type)}: {_bare(info.value_type)}}}"
        case StructType():
            return info.cls.__name__
        case IntType():
            return "uint"
        case FloatType():
            return "float"
        case BoolType():
            return "bool"
        case NoneType():
            return "null"
    raise AssertionError(f"no notation for {info}")


def _default(field: msgspec.structs.FieldInfo) -> str:
    factory = field.default_factory
    value = field.default if factory is msgspec.NODEFAULT else factory()
    return "empty" if value == b"" else f"`{msgspec.json.encode(value).decode()}`"
