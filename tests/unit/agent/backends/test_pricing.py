import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.agent.backends.pricing import Price, price_for
from provider_agent.agent.config import PricingConfig

DEFAULTS = PricingConfig(
    default_input_per_1m=500, default_output_per_1m=750, models={"named": Price(1, 2)}
)
NO_PRICES = PricingConfig()


@pytest.mark.parametrize(
    ("model_id", "pricing", "upstream", "markup", "expected"),
    [
        ("named", DEFAULTS, None, None, Price(1, 2)),
        ("named", DEFAULTS, Price(100, 200), 0.5, Price(1, 2)),
        ("other", DEFAULTS, Price(100, 200), 0.05, Price(105, 210)),
        ("other", DEFAULTS, Price(100, 200), None, Price(100, 200)),
        ("other", NO_PRICES, Price(10, 30), 0.1, Price(11, 33)),
        ("other", NO_PRICES, Price(1, 0), 0.05, Price(2, 0)),
        ("other", DEFAULTS, None, 0.05, Price(500, 750)),
        ("other", NO_PRICES, None, 0.05, None),
    ],
)
def test_configured_model_price_precedes_upstream_price_which_precedes_default(
    model_id: str,
    pricing: PricingConfig,
    upstream: Price | None,
    markup: float | None,
    expected: Price | None,
) -> None:
    assert price_for(model_id, pricing, upstream=upstream, markup=markup) == expected


@given(st.integers(0, 2**53 - 1), st.floats(0, 10))
def test_a_price_with_markup_is_never_below_cost(cost: int, markup: float) -> None:
    price = price_for("m", NO_PRICES, upstream=Price(cost, cost), markup=markup)
    assert price is not None
    assert price.input_per_1m >= cost
