from datetime import date

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.servers.passthrough import (
    decode_valid_entries,
    is_due,
    micro_usd_per_million,
)


@pytest.mark.parametrize(
    ("price", "tokens", "expected"),
    [
        ("0.00000059", 1, 590_000),
        ("0.0000000001", 1, 100),
        ("1e-6", 1, 1_000_000),
        ("0", 1, 0),
        ("-1", 1, None),
        ("NaN", 1, None),
        ("Infinity", 1, None),
        ("free", 1, None),
        ("", 1, None),
        (None, 1, None),
        ("1e999999", 1, None),
        ("1e-999999", 1, 0),
        (0.7, 1_000_000, 700_000),
        (0, 1_000_000, 0),
        (-0.5, 1_000_000, None),
        (float("nan"), 1_000_000, None),
    ],
)
def test_price_is_converted_to_micro_usd_per_million_tokens(
    price: str | float | None, tokens: int, expected: int | None
) -> None:
    assert micro_usd_per_million(price, tokens=tokens) == expected


@given(st.one_of(st.text(), st.floats(), st.none()))
def test_any_price_gives_none_or_a_nonnegative_integer(price: str | float | None) -> None:
    found = micro_usd_per_million(price, tokens=1)

    assert found is None or found >= 0


@pytest.mark.parametrize(
    ("day", "passed"),
    [
        ("2026-11-21", True),
        ("2026-11-22", True),
        ("2026-11-22T23:00:00.000Z", True),
        ("2026-11-23", False),
        ("some day", False),
        ("", False),
    ],
)
def test_day_is_due_if_it_is_today_or_earlier(day: str, passed: bool) -> None:
    assert is_due(day, date(2026, 11, 22)) is passed


def test_malformed_catalog_entries_are_skipped() -> None:
    class Entry(msgspec.Struct):
        id: str

    items = [msgspec.Raw(raw) for raw in (b'{"id":"a"}', b'{"id":7}', b"[]", b'{"id":"b"}')]

    assert [entry.id for entry in decode_valid_entries(items, Entry)] == ["a", "b"]
