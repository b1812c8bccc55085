"""Prices in dollars with their unit."""

from pathlib import Path

import pytest

from provider_agent.agent.config import Price
from provider_agent.agent.config.prices import dollars
from tests.unit.agent.config.loading import MINIMAL, load, load_error


@pytest.mark.parametrize(
    ("text", "millionths"),
    [
        ("0.50 USD", 500_000),
        ("0.5USD", 500_000),
        ("12 USD", 12_000_000),
        ("0.000001 USD", 1),
        ("0 USD", 0),
        (" 1.10 USD ", 1_100_000),
        ("0.29 USD", 290_000),  # 0.29 * 1_000_000 is 290000.0 only after rounding
    ],
)
def test_price_in_dollars_is_exact(text: str, millionths: int, tmp_path: Path) -> None:
    config = f'''{MINIMAL}[pricing]
default_input_per_1m = "{text}"
default_output_per_1m = 2
[pricing.models]
"m.1" = {{ input_per_1m = 3, output_per_1m = "{text}" }}
'''
    loaded = load(tmp_path, config)

    pricing = loaded.config.pricing
    assert pricing.default_input_per_1m == millionths
    assert pricing.models == {"m.1": Price(3, millionths)}
    assert [warning.split(" = ")[0] for warning in loaded.warnings] == [
        "pricing.default_output_per_1m",
        'pricing.models."m.1".input_per_1m',
    ]


def test_variables_accept_both_forms(tmp_path: Path) -> None:
    environ = {
        "PROVIDER_AGENT_PRICING_DEFAULT_INPUT_PER_1M": "0.50 USD",
        "PROVIDER_AGENT_PRICING_DEFAULT_OUTPUT_PER_1M": "750000",
        "PROVIDER_AGENT_PRICING_MODELS": '{"m": {"input_per_1m": "1 USD", "output_per_1m": 20000}}',
    }
    pricing = load(tmp_path, MINIMAL, environ).config.pricing

    assert (pricing.default_input_per_1m, pricing.default_output_per_1m) == (500_000, 750_000)
    assert pricing.models == {"m": Price(1_000_000, 20_000)}


def test_amount_above_the_limit_is_an_error(tmp_path: Path) -> None:
    text = f'{MINIMAL}[pricing]\ndefault_input_per_1m = "999999999999 USD"'
    assert "pricing.default_input_per_1m: expected a whole number <= " in load_error(tmp_path, text)


@pytest.mark.parametrize(
    ("amount", "text"),
    [(500_000, "0.50 USD"), (1, "0.000001 USD"), (0, "0.00 USD"), (1_234_500, "1.2345 USD")],
)
def test_amount_is_printed_in_the_form_of_the_file(amount: int, text: str) -> None:
    assert dollars(amount) == text
