"""Hypothesis strategies for every frame of protocol version 1, derived from the frames' types."""

from typing import Final, get_args

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
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

from provider_agent.protocol.frames import AgentFrame, CoordinatorFrame


def _values(info: Type) -> SearchStrategy[object]:
    match info:
        case UnionType():
            return st.one_of(*map(_values, info.types))
        case IntType():
            return st.integers(info.ge, info.le)
        case FloatType():
            return st.floats(info.ge, info.le, allow_nan=False)
        case StrType():
            return st.text(max_size=40)
        case BytesType() if info.min_length is not None:
            return st.binary(min_size=info.min_length, max_size=info.max_length)
        case BytesType():
            return st.binary(max_size=400)
        case BoolType():
            return st.booleans()
        case NoneType():
            return st.none()
        case ListType():
            return st.lists(_values(info.item_type), max_size=3)
        case DictType():
            return st.dictionaries(_values(info.key_type), _values(info.value_type), max_size=3)
        case StructType():
            return _structs(info)
    raise AssertionError(f"no strategy for {info}")


def _structs(info: StructType) -> SearchStrategy[msgspec.Struct]:
    return st.builds(info.cls, **{field.name: _values(field.type) for field in info.fields})


def _frames(union: object) -> SearchStrategy[msgspec.Struct]:
    infos = [info for info in multi_type_info(get_args(union)) if isinstance(info, StructType)]
    return st.one_of(*map(_structs, infos))


FROM_COORDINATOR: Final[SearchStrategy[CoordinatorFrame]] = _frames(CoordinatorFrame)  # type: ignore[assignment]
FROM_AGENT: Final[SearchStrategy[AgentFrame]] = _frames(AgentFrame)  # type: ignore[assignment]
