"""`provider-agent config`."""

import json
from importlib.resources import files

import click

from provider_agent.agent.cli.settings import with_config
from provider_agent.agent.config import LoadedConfig, masked
from provider_agent.agent.config.prices import dollars
from provider_agent.protocol.field_values import to_text


@click.group()
def config() -> None:
    """Print the configuration, or an example."""


@config.command(short_help="Print every setting and its origin.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_config
def show(loaded: LoadedConfig, as_json: bool) -> None:
    """Print every setting and the origin of its value; secrets are masked."""
    settings = masked(loaded.config)
    if as_json:
        document = {"settings": settings, "origins": loaded.origins, "warnings": loaded.warnings}
        click.echo(_json(document, indent=2))
        return
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    for section, values in settings.items():
        if section == "pricing":
            _print_pricing(loaded)
        elif isinstance(values, dict):
            for name, value in values.items():
                key = f"{section}.{name}"
                _print_setting(key, value, loaded.origins.get(key, ""))
        else:
            _print_setting(section, values, loaded.origins.get(section, ""))


@config.command(short_help="Print the example of agent.toml.")
def example() -> None:
    """Print agent.example.toml: a configuration with every key and its meaning."""
    file = files("provider_agent").joinpath("agent.example.toml")
    click.echo(file.read_text(encoding="utf-8"), nl=False)


def _print_pricing(loaded: LoadedConfig) -> None:
    """Print each price also in dollars, which a mistake of units makes obvious."""
    pricing, origins = loaded.config.pricing, loaded.origins
    for name in ("default_input_per_1m", "default_output_per_1m"):
        _print_price(f"pricing.{name}", getattr(pricing, name), origins[f"pricing.{name}"])
    origin = origins["pricing.models"]
    if not pricing.models:
        _print_setting("pricing.models", {}, origin)
    for model_id, price in pricing.models.items():
        key = f"pricing.models.{_json(model_id)}"
        _print_price(f"{key}.input_per_1m", price.input_per_1m, origin)
        _print_price(f"{key}.output_per_1m", price.output_per_1m, origin)


def _print_price(key: str, amount: int | None, origin: str) -> None:
    meaning = "" if amount is None else f" ({dollars(amount)} per million tokens)"
    click.echo(f"{key} = {_json(amount)}{meaning}   ({origin})")


def _print_setting(key: str, value: object, origin: str) -> None:
    click.echo(f"{key} = {_json(value)}" + (f"   ({origin})" if origin else ""))


def _json(value: object, indent: int | None = None) -> str:
    """Encode plain values; msgspec refuses the surrogates of a variable that is not UTF-8."""
    separators = None if indent else (",", ":")
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
    return to_text(text, len(text))
