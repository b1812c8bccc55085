"""The notation of docs/protocol/frames.cddl for the frames and their fields."""

import re

import msgspec
from msgspec.inspect import (
    BoolType,
    BytesType,
    DictType,
    Field,
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

from provider_agent.protocol.limits import MAX_INTEGER, MAX_NAME_CHARS, MAX_TEXT_CHARS

_TEXTS = {MAX_NAME_CHARS: "name", MAX_TEXT_CHARS: "text"}


def rule_name(struct: type[msgspec.Struct]) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"-\1", struct.__name__).lower()


def rule(struct: type[msgspec.Struct]) -> str:
    """The rule of a frame or nested array.

    The group of each optional field contains the groups of the later ones. With `? a, ? b` instead,
    a value that does not match `a` could match `b` at the position of `a`.
    """
    (info,) = multi_type_info([struct])
    assert isinstance(info, StructType)
    tag = [] if info.tag is None else [str(info.tag)]
    required = [_field(field) for field in info.fields if field.required]
    optional = [_field(field) for field in info.fields if not field.required]
    body = ",\n  ".join([*tag, *required])
    for field in optional:
        body += f"{',' if body else ''}\n  ? ({field}"
    return f"{rule_name(struct)} = [\n  {body.lstrip()},\n  * any{')' * len(optional)}\n]"


def _field(field: Field) -> str:
    return f"{field.name}: {_type(field.type)}"


def _type(info: Type) -> str:
    match info:
        case UnionType():
            return " / ".join(_type(one) for one in info.types)
        case IntType() if (info.ge, info.le) == (0, MAX_INTEGER):
            return "uint53"
        case IntType():
            return f"{info.ge}..{info.le}"
        case FloatType():
            return "share" if info.le == 1.0 else "number"
        case BytesType() if info.min_length is not None and info.min_length == info.max_length:
            return f"bstr .size {info.max_length}"
        case BytesType():
            return "bstr" if info.max_length is None else f"bstr .size (0..{info.max_length})"
        case StrType():
            return _TEXTS[info.max_length or 0]
        case BoolType():
            return "bool"
        case NoneType():
            return "null"
        case ListType():
            return f"[0*{info.max_length} {_type(info.item_type)}]"
        case DictType():
            return f"{{0*{info.max_length} {_type(info.key_type)} => {_type(info.value_type)}}}"
        case StructType():
            return rule_name(info.cls)
    raise AssertionError(f"no notation for {info}")
