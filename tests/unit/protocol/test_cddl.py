"""docs/protocol/frames.cddl matches the code and the vectors."""

import re
from typing import Final, get_args

import msgspec
import pytest

from provider_agent.protocol.frames import AgentFrame, CoordinatorFrame
from tests.unit.protocol.cddl import Schema
from tests.unit.protocol.cddl_notation import rule, rule_name
from tests.unit.protocol.test_document import STRUCTS
from tests.unit.protocol.vectors import FOLDER, VECTORS, Vector

TEXT: Final = (FOLDER / "frames.cddl").read_text(encoding="utf-8")
SCHEMA: Final = Schema(TEXT)
MESSAGE_OF: Final = {"agent": "message-of-agent", "coordinator": "message-of-coordinator"}
COUNTS_CODE_POINTS: Final = {"a name of 513 characters", "a reason of 4097 characters"}
"""Malformed vectors that the schema accepts.

The protocol limits a text in code points, and CDDL in bytes: the schema allows four bytes for each
code point.
"""


def decoded(vector: Vector) -> object:
    assert isinstance(vector.data, bytes)
    return msgspec.msgpack.decode(vector.data)


def is_decodable(vector: Vector) -> bool:
    """Whether the message is MessagePack, and not rejected for its size, which no schema knows."""
    try:
        decoded(vector)
    except (AssertionError, ValueError, RecursionError, TypeError):
        return False
    return vector.close_code == 1002


@pytest.mark.parametrize("vector", [*VECTORS.frames, *VECTORS.tolerated], ids=lambda one: one.name)
def test_the_schema_accepts_every_valid_message(vector: Vector) -> None:
    assert SCHEMA.matches(MESSAGE_OF[vector.sender], decoded(vector))


@pytest.mark.parametrize(
    "vector",
    [*filter(is_decodable, [*VECTORS.malformed, *VECTORS.integers_as_floats])],
    ids=lambda one: one.name,
)
def test_the_schema_rejects_malformed_messages(vector: Vector) -> None:
    accepted = SCHEMA.matches(MESSAGE_OF[vector.sender], decoded(vector))

    assert accepted == (vector.name in COUNTS_CODE_POINTS)


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_the_rule_of_each_frame_matches_the_code(struct: type[msgspec.Struct]) -> None:
    assert f"\n{rule(struct)}\n" in TEXT


@pytest.mark.parametrize(
    ("sender", "union"), [("coordinator", CoordinatorFrame), ("agent", AgentFrame)]
)
def test_a_message_may_hold_every_frame_of_its_sender(sender: str, union: object) -> None:
    found = re.search(rf"^frame-of-{sender} =([^;=]+?)\n\n", TEXT, re.MULTILINE)

    assert found is not None
    assert [name.strip() for name in found[1].split("/")] == [
        *map(rule_name, get_args(union)),
        f"other-frame-of-{sender}",
    ]


@pytest.mark.parametrize(
    ("value", "matches"),
    [
        ([1], True),
        ([1, True], True),
        ([1, True, "x"], True),
        ([1, True, "x", None, 5], True),
        ([1, "x"], False),
        ([1, True, 5], False),
        ([], False),
        ([True], False),
        ({"a": 1}, False),
    ],
)
def test_the_validator_matches_nested_optional_groups(value: object, matches: bool) -> None:
    schema = Schema("frame = [uint53, ? (a: bool, ? (b: tstr, * any))]\nuint53 = 0..9")

    assert schema.matches("frame", value) == matches


@pytest.mark.parametrize(
    ("definition", "value", "matches"),
    [
        ("1*2 bool", [], False),
        ("1*2 bool", [True, False], True),
        ("1*2 bool", [True] * 3, False),
        ("tstr .size (0..2)", ["ü"], True),
        ("tstr .size (0..2)", ["üx"], False),
        ("bstr .size 2", [b"x"], False),
        ("0.0..1.0 / 0..1", [1], True),
        ("0.0..1.0 / 0..1", [1.5], False),
        ("0..1", [1.0], False),
        ("nint / null", [-1], True),
        ("{0*1 tstr => bool}", [{"a": True}], True),
        ("{0*1 tstr => bool}", [{"a": True, "b": True}], False),
        ("{0*1 tstr => bool}", [{"a": 1}], False),
    ],
)
def test_the_validator_matches_types(definition: str, value: object, matches: bool) -> None:
    assert Schema(f"rule = [{definition}]").matches("rule", value) == matches
