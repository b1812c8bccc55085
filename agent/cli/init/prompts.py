"""The questions of `init`. They are printed on standard error, so that output can be redirected."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import click

from provider_agent.agent.cli.init.document import OfferedServer
from provider_agent.agent.cli.init.prices import Prices, parse_price
from provider_agent.agent.cli.terminal import visible
from provider_agent.agent.config import Price
from provider_agent.agent.config.addresses import coordinator_url
from provider_agent.agent.config.prices import dollars

T = TypeVar("T")

MAX_ASKED_MODELS: Final = 20
"""With more models than this, only the price for all of them is asked for."""


def choose_servers(servers: Sequence[OfferedServer]) -> list[OfferedServer]:
    """Ask for each server whether to offer its models."""
    return [
        offered
        for offered in servers
        if click.confirm(f"Offer the models of {offered.server}?", default=True, err=True)
    ]


def ask_coordinator(*, allow_insecure: bool) -> str:
    """Ask for the coordinator's address until it is valid."""
    parse = partial(coordinator_url, allow_insecure=allow_insecure)
    return _ask("Coordinator's address (wss://…)", parse)


def ask_enrollment_code() -> str:
    """Ask for the enrollment code without showing what is typed; "" for none."""
    text = "Enrollment code (not shown; Enter for none)"
    code: str = click.prompt(text, default="", show_default=False, hide_input=True, err=True)
    return code.strip()


def ask_prices(models: Sequence[str]) -> Prices:
    """Ask for the price of all models, and if the operator wants, of each model.

    Args:
        models: the ids of the models.
    """
    click.echo("Prices per million tokens, such as 0.50 USD:", err=True)
    first = _ask_optional("Input price of all models (Enter for no price)", parse_price)
    if first is None:
        return Prices()
    default = Price(first, _ask("Output price of all models", parse_price))
    if not 1 < len(models) <= MAX_ASKED_MODELS:
        return Prices(default)
    if click.confirm(f"The same for each of the {len(models)} models?", default=True, err=True):
        return Prices(default)
    asked = {model: _ask_model(model, default) for model in models}
    return Prices(default, {model: price for model, price in asked.items() if price != default})


def _ask_model(model: str, default: Price) -> Price:
    return Price(
        _ask_price(f"Input price of {visible(model)}", default.input_per_1m),
        _ask_price(f"Output price of {visible(model)}", default.output_per_1m),
    )


def _ask_price(text: str, default: int) -> int:
    return _ask(text, parse_price, default=dollars(default))


def _ask(text: str, parse: Callable[[str], T], *, default: str | None = None) -> T:
    answer: T = click.prompt(text, default=default, value_proc=partial(_parse, parse), err=True)
    return answer


def _ask_optional(text: str, parse: Callable[[str], T]) -> T | None:
    def parse_optional(answer: str) -> T | None:
        return _parse(parse, answer) if answer.strip() else None

    answer: T | None = click.prompt(
        text, default="", show_default=False, value_proc=parse_optional, err=True
    )
    return answer


def _parse(parse: Callable[[str], T], text: str) -> T:
    """Return the parsed answer; click prints the error, and asks again."""
    try:
        return parse(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
