import pytest

from provider_agent.agent.config import Price, PricingConfig
from provider_agent.agent.config.low_prices import CENT, low_prices


@pytest.mark.parametrize("amount", [1, 3, CENT - 1])
def test_price_under_one_cent_is_probably_in_dollars(amount: int) -> None:
    pricing = PricingConfig(
        default_input_per_1m=CENT,
        default_output_per_1m=amount,
        models={"m": Price(amount, CENT), "n": Price(CENT, amount)},
    )

    found = list(low_prices(pricing))

    assert [text.partition(" is less than one cent")[0] for text in found] == [
        f"pricing.default_output_per_1m = {amount}",
        f'pricing.models."m".input_per_1m = {amount}',
        f'pricing.models."n".output_per_1m = {amount}',
    ]
    written = f'${amount} is written {amount * 1_000_000:_} or "{amount}.00 USD"'
    assert found[0].endswith(f": {written}")


def test_free_models_and_prices_of_one_cent_are_no_mistake() -> None:
    assert list(low_prices(PricingConfig(models={"m": Price(0, CENT)}))) == []


def test_price_with_its_unit_is_no_mistake() -> None:
    pricing = PricingConfig(models={"m": Price(1, 2)})

    (found,) = low_prices(pricing, {'pricing.models."m".input_per_1m'})

    assert found.startswith('pricing.models."m".output_per_1m = 2 ')
