import math
from typing import Any

import pytest

from provider_agent.protocol.field_values import (
    is_name,
    to_line,
    to_text,
    valid_count,
    whole_milliseconds,
)
from provider_agent.protocol.limits import MAX_INTEGER


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        (None, None),
        (0, 0),
        (7, 7),
        (MAX_INTEGER, MAX_INTEGER),
        (MAX_INTEGER + 1, None),
        (-1, None),
        (10**30, None),
        (1.0, None),
        (True, None),
    ],
)
def test_an_impossible_count_becomes_none(reported: Any, expected: int | None) -> None:
    assert valid_count(reported) == expected


@pytest.mark.parametrize(
    ("seconds", "milliseconds"),
    [
        (0.0, 0),
        (1.2345, 1234),
        (-1.0, 0),
        (math.nan, 0),
        (math.inf, MAX_INTEGER),
        (1e300, MAX_INTEGER),
    ],
)
def test_any_time_becomes_whole_milliseconds(seconds: float, milliseconds: int) -> None:
    assert whole_milliseconds(seconds) == milliseconds


@pytest.mark.parametrize(
    ("text", "line", "kept"),
    [
        ("acme/acme-8b", "acme/acme-8b", "acme/acme-8b"),
        ("caf\udce9", "caf\ufffd", "caf\ufffd"),
        ("two\nlines\t\x1b[2J", "two\ufffdlines\ufffd\ufffd[2J", "two\nlines\t\x1b[2J"),
        ("long" * 1000, "long" * 128, "long" * 1000),
    ],
)
def test_a_text_is_a_name_if_to_line_leaves_it_unchanged(text: str, line: str, kept: str) -> None:
    assert (to_line(text), to_text(text)) == (line, kept)
    assert is_name(text) is (line == text)


def test_an_empty_name_is_not_valid() -> None:
    assert not is_name("")
