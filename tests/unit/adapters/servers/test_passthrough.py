from datetime import date

import msgspec
import pytest

from provider_agent.adapters.servers.passthrough import (
    decode_valid_entries,
    is_due,
)


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
