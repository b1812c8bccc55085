import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.agent.backends.pricing import NO_PRICES, price_for
from provider_agent.agent.config import Price, PricingConfig
from tests.kit.scripted_backend import model

DEFAULTS = PricingConfig(
    default_input_per_1m=500, default_output_per_1m=750, models={"named": Price(1, 2)}
)


@pytest.mark.parametrize(
    ("model_id", "native", "pricing", "upstream", "markup", "expected"),
    [
        ("named", True, DEFAULTS, None, None, Price(1, 2)),
        ("named", False, DEFAULTS, None, None, Price(1, 2)),
        ("named", False, DEFAULTS, (100, 200), 0.5, Price(1, 2)),
        ("other", False, DEFAULTS, (100, 200), 0.05, Price(105, 210)),
        ("other", False, DEFAULTS, (100, 200), None, Price(100, 200)),
        ("other", False, NO_PRICES, (10, 30), 0.1, Price(11, 33)),
        ("other", False, NO_PRICES, (1, 0), 0.05, Price(2, 0)),
        ("other", False, NO_PRICES, (0, 0), 0.5, Price(0, 0)),
        ("other", True, DEFAULTS, None, None, Price(500, 750)),
        ("other", True, NO_PRICES, None, None, None),
        # The default may be below the unknown cost.
        ("other", False, DEFAULTS, None, 0.05, None),
    ],
)
def test_configured_model_price_precedes_upstream_price_which_precedes_default(
    model_id: str,
    native: bool,
    pricing: PricingConfig,
    upstream: tuple[int, int] | None,
    markup: float | None,
    expected: Price | None,
) -> None:
    assert price_for(model(model_id, native=native, prices=upstream), pricing, markup) == expected


@given(st.integers(0, 2**53 - 1), st.floats(0, 10))
def test_a_price_with_markup_is_never_below_cost(cost: int, markup: float) -> None:
    price = price_for(model(prices=(cost, cost)), NO_PRICES, markup)
    if price is None:
        assert cost * (1 + markup) > 2**53 - 2  # no frame can carry it
    else:
        assert price.input_per_1m >= cost
