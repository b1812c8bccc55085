"""Prices in the options and answers of `init`: US dollars per million tokens, with their unit."""

from collections.abc import Iterable

from msgspec import Struct

from provider_agent.advised_error import AdvisedError
from provider_agent.agent.config import Price
from provider_agent.agent.config.prices import dollars, dollars_meant, parse_amount


class InvalidPrice(AdvisedError, ValueError):
    """A text is not a price."""


def parse_price(text: str) -> int:
    """Return a price such as `0.50 USD` in millionths of a US dollar.

    The unit is required, as in the file: there, a bare whole number is in millionths.

    Raises:
        InvalidPrice: it is not a price with its unit; the error has the words of the file's.
    """
    text = text.strip()
    amount = parse_amount(text)
    if amount is None:
        meant, subject = dollars_meant(f"{text}.0" if text.isascii() and text.isdigit() else text)
        subject = subject.replace(f"{text}.0 ", f"{text} ")
        problem = f'expected dollars with their unit, got "{text}"'
        raise InvalidPrice(problem, f"{subject} per million tokens is {dollars(meant)}")
    return amount


def parse_options(texts: Iterable[str]) -> tuple[int | None, dict[str, int]]:
    """Parse the values of one option: `PRICE` is for all models, `MODEL=PRICE` for one.

    Returns:
        The price for all models, or None, and the prices by model id.

    Raises:
        InvalidPrice: a value is not valid, or a model occurs twice.
    """
    default: int | None = None
    by_model: dict[str, int] = {}
    for text in texts:
        model, separator, amount = text.rpartition("=")
        price = parse_price(amount)
        if (model in by_model) if separator else (default is not None):
            whose = f'the model "{model}"' if separator else "all models"
            raise InvalidPrice(f"there are two prices for {whose}", "remove one of them")
        if separator:
            by_model[model] = price
        else:
            default = price
    return default, by_model


class Prices(Struct, frozen=True):
    """The operator's prices.

    Attributes:
        default: the price of models without their own; None if they have none.
        by_model: the price of each model that has its own.
    """

    default: Price | None = None
    by_model: dict[str, Price] = {}


def combine(inputs: Iterable[str], outputs: Iterable[str]) -> Prices:
    """Return the prices of `--input-price` and `--output-price`.

    A model with only one price of its own has the other one from the price for all models.

    Raises:
        InvalidPrice: a value is not valid, or an input price has no output price or vice versa.
    """
    default_input, model_inputs = parse_options(inputs)
    default_output, model_outputs = parse_options(outputs)
    default = _pair(default_input, default_output, "")
    by_model = {
        model: pair
        for model in {**model_inputs, **model_outputs}
        if (
            pair := _pair(
                model_inputs.get(model, default_input),
                model_outputs.get(model, default_output),
                f"{model}=",
            )
        )
    }
    return Prices(default, by_model)


def _pair(input_price: int | None, output_price: int | None, prefix: str) -> Price | None:
    if input_price is not None and output_price is not None:
        return Price(input_price, output_price)
    if input_price is None and output_price is None:
        return None
    missing, given = ("--output-price", "--input-price")
    if input_price is None:
        missing, given = given, missing
    problem = f"{given} is set without {missing}"
    raise InvalidPrice(problem, f"add {missing} {prefix}PRICE")
