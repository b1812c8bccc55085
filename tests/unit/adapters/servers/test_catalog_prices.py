import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.servers.catalog_prices import (
    CatalogPrice,
    is_charged,
    micro_usd_per_million,
    worst_price,
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
        ("1e-999999", 1, 1),
        ("0.00000000000051", 1, 1),
        (True, 1, None),
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
    ("inputs", "outputs", "expected"),
    [
        ([1], [2], CatalogPrice(1, 2)),
        ([1, None, 3, 2], [2, 1], CatalogPrice(3, 2)),
        ([None, 3], [2], None),
        ([1, -1], [2], None),
        ([1], [2, "free"], None),
    ],
)
def test_worst_price_is_the_highest_of_each_direction_or_unknown(
    inputs: list[object], outputs: list[object], expected: CatalogPrice | None
) -> None:
    # A base price (the first) of None is unknown; a further price of None is not charged.
    price = worst_price(inputs, outputs, tokens=10**12)

    assert price == (expected or CatalogPrice(unknown="its price is unknown"))


@pytest.mark.parametrize(
    ("price", "charged"),
    [(None, False), ("0", False), (0, False), ("0.005", True), ("-1", True), ("x", True)],
)
def test_a_fee_is_charged_unless_it_is_absent_or_zero(price: object, charged: bool) -> None:
    assert is_charged(price) is charged
