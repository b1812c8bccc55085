import pytest

from provider_agent.agent.cli.init.prices import InvalidPrice, Prices, combine, parse_dollars
from provider_agent.agent.config import Price


@pytest.mark.parametrize(
    ("text", "millionths"),
    [
        ("0.50", 500_000),
        ("0.1", 100_000),
        ("$2", 2_000_000),
        (" 0.000001 USD ", 1),
        ("0", 0),
        ("1.25usd", 1_250_000),
        ("10000", 10_000_000_000),
    ],
)
def test_dollars_become_millionths_exactly(text: str, millionths: int) -> None:
    assert parse_dollars(text) == millionths


@pytest.mark.parametrize(
    "text", ["", "free", "-1", "0,5", "1e3", "0.0000001", "0.5 EUR", "nan", "1_000", "٣"]
)
def test_a_text_that_is_no_price_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidPrice, match=r"is not a price; write dollars .* such as 0\.50"):
        parse_dollars(text)


def test_a_price_in_millionths_is_refused() -> None:
    with pytest.raises(InvalidPrice, match=r"500000 dollars .* too much; .* not millionths"):
        parse_dollars("500000")


def test_prices_of_all_models_and_of_one() -> None:
    prices = combine(["0.5", "acme/a=b=1"], ["acme/a=b=2", "1.5"])

    assert prices == Prices(Price(500_000, 1_500_000), {"acme/a=b": Price(1_000_000, 2_000_000)})


def test_one_price_of_a_model_is_completed_by_the_price_of_all_models() -> None:
    prices = combine(["0.5"], ["1", "acme=3"])

    assert prices.by_model == {"acme": Price(500_000, 3_000_000)}


def test_no_option_is_no_price() -> None:
    assert combine([], []) == Prices()


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (["1"], [], "--input-price is set without --output-price; add --output-price USD"),
        ([], ["1"], "--output-price is set without --input-price; add --input-price USD"),
        (["a=1"], ["b=2"], "--input-price is set without --output-price; add --output-price a=USD"),
        (["1", "2"], ["1"], "there are two prices for all models; remove one of them"),
        (["a=1", "a=1"], ["1"], 'there are two prices for the model "a"; remove one of them'),
    ],
)
def test_incomplete_and_repeated_prices_are_refused(
    inputs: list[str], outputs: list[str], message: str
) -> None:
    with pytest.raises(InvalidPrice) as caught:
        combine(inputs, outputs)

    assert str(caught.value) == message
