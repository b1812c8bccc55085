import pytest

from provider_agent.protocol.counts import MAX_COUNT, valid_count


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        (None, None),
        (0, 0),
        (7, 7),
        (MAX_COUNT, MAX_COUNT),
        (MAX_COUNT + 1, None),
        (-1, None),
        (10**30, None),
    ],
)
def test_what_cannot_have_been_counted_is_unknown(
    reported: int | None, expected: int | None
) -> None:
    assert valid_count(reported) == expected
