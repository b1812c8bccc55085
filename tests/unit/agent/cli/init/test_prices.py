import pytest

from provider_agent.agent.cli.init.prices import InvalidPrice, Prices, combine, parse_price
from provider_agent.agent.config import Price


@pytest.mark.parametrize(
    ("text", "millionths"),
    [
        ("0.50 USD", 500_000),
        ("2USD", 2_000_000),
        (" 0.000001 USD ", 1),
        ("0 USD", 0),
        ("10000 USD", 10_000_000_000),
    ],
)
def test_dollars_become_millionths_exactly(text: str, millionths: int) -> None:
    assert parse_price(text) == millionths


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("0.5", "0.5 dollars per million tokens is 0.50 USD"),
        (".25", ".25 dollars per million tokens is 0.25 USD"),
        ("2", "2 dollars per million tokens is 2.00 USD"),
        ("500000", "half a dollar per million tokens is 0.50 USD"),
        ("", "half a dollar per million tokens is 0.50 USD"),
        ("free", "half a dollar"),
        ("-1", "half a dollar"),
        ("0,5", "half a dollar"),
        ("0.0000001 USD", "half a dollar"),
        ("0.5 EUR", "half a dollar"),
        ("\u0663", "half a dollar"),
    ],
)
def test_price_without_its_unit_is_refused_as_in_the_file(text: str, advice: str) -> None:
    """`init` accepted 0.5, and the file did not."""
    with pytest.raises(InvalidPrice) as caught:
        parse_price(text)
    assert str(caught.value).startswith(f'expected dollars with their unit, got "{text}"; {advice}')


def test_prices_of_all_models_and_of_one() -> None:
    prices = combine(["0.5 USD", "acme/a=b=1 USD"], ["acme/a=b=2 USD", "1.5 USD"])

    assert prices == Prices(Price(500_000, 1_500_000), {"acme/a=b": Price(1_000_000, 2_000_000)})


def test_one_price_of_a_model_is_completed_by_the_price_of_all_models() -> None:
    prices = combine(["0.5 USD"], ["1 USD", "acme=3 USD"])

    assert prices.by_model == {"acme": Price(500_000, 3_000_000)}


def test_no_option_is_no_price() -> None:
    assert combine([], []) == Prices()


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (["1 USD"], [], "--input-price is set without --output-price; add --output-price PRICE"),
        ([], ["1 USD"], "--output-price is set without --input-price; add --input-price PRICE"),
        (
            ["a=1 USD"],
            ["b=2 USD"],
            "--input-price is set without --output-price; add --output-price a=PRICE",
        ),
        (["1 USD", "2 USD"], ["1 USD"], "there are two prices for all models; remove one of them"),
        (
            ["a=1 USD", "a=1 USD"],
            ["1 USD"],
            'there are two prices for the model "a"; remove one of them',
        ),
    ],
)
def test_incomplete_and_repeated_prices_are_refused(
    inputs: list[str], outputs: list[str], message: str
) -> None:
    with pytest.raises(InvalidPrice) as caught:
        combine(inputs, outputs)

    assert str(caught.value) == message
