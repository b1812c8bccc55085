import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.responses.retry_after import (
    MAX_RETRY_AFTER_S,
    parse_retry_after,
    retry_after_s,
)

NOW = 1_795_334_400.0
"""Sun, 22 Nov 2026 08:00:00 GMT."""


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "17"}, 17.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": " 1.5 "}, 1.5),
        ({"Retry-After": "Sun, 22 Nov 2026 08:02:00 GMT"}, 120.0),
        ({"Retry-After": "Sun, 22 Nov 2026 07:00:00 GMT"}, 0.0),
        ({"Retry-After": "Tue, 23 Nov 2027 08:00:00 GMT"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "1e9"}, None),
        ({"x-ratelimit-reset": str(int((NOW + 30) * 1000))}, 30.0),
        ({"x-ratelimit-reset-requests": str(int(NOW + 45))}, 45.0),
        ({"x-ratelimit-reset-requests": str(int(NOW - 45))}, None),
        ({"x-ratelimit-reset-requests": "tomorrow"}, None),
        ({"x-ratelimit-reset-tokens": "12"}, None),
        ({"Retry-After": "3", "x-ratelimit-reset": str(int((NOW + 30) * 1000))}, 3.0),
    ],
)
def test_delay_is_read_from_the_headers_of_a_429(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after_s(429, headers, NOW) == seconds


@pytest.mark.parametrize("status", [400, 500, 503])
def test_reset_headers_are_ignored_without_429(status: int) -> None:
    """Venice sends reset headers with every response; those of a 500 must not pause the backend."""
    headers = {"x-ratelimit-reset-requests": str(int(NOW + 45))}

    assert retry_after_s(status, headers, NOW) is None
    assert retry_after_s(status, headers | {"Retry-After": "9"}, NOW) == 9.0


TEXTS = st.text(st.characters(codec="ascii")) | st.floats().map(str) | st.integers().map(str)
NAMES = st.sampled_from(["Retry-After", "x-ratelimit-reset", "x-ratelimit-reset-requests"])


@given(st.dictionaries(NAMES, TEXTS), st.floats(0, 4e9))
def test_arbitrary_headers_give_a_bounded_delay(headers: dict[str, str], now: float) -> None:
    seconds = retry_after_s(429, headers, now)

    assert seconds is None or 0 <= seconds < MAX_RETRY_AFTER_S


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("17", 17.0),
        ("0", 0.0),
        ("1.5", 1.5),
        (" 3 ", 3.0),
        (None, None),
        ("-1", None),
        ("99999999999999999999999", 1e23),
        ("nan", None),
        ("Sun, 22 Nov 2026 08:00:00 GMT", None),
        ("", None),
    ],
)
def test_retry_after_is_parsed_as_seconds(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds


@given(st.text())
def test_arbitrary_retry_after_is_not_negative(value: str) -> None:
    seconds = parse_retry_after(value)

    assert seconds is None or seconds >= 0
