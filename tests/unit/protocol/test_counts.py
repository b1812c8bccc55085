import pytest

from provider_agent.protocol.counts import valid_count
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
    ],
)
def test_an_impossible_count_becomes_none(reported: int | None, expected: int | None) -> None:
    assert valid_count(reported) == expected
