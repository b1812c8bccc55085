"""`provider-agent config`."""

import json

import click

from provider_agent.agent.cli.settings import with_config
from provider_agent.agent.config import LoadedConfig, masked
from provider_agent.protocol.field_values import to_text


@click.group()
def config() -> None:
    """Inspect the configuration."""


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
        if isinstance(values, dict):
            for name, value in values.items():
                key = f"{section}.{name}"
                _print_setting(key, value, loaded.origins.get(key, ""))
        else:
            _print_setting(section, values, loaded.origins.get(section, ""))


def _print_setting(key: str, value: object, origin: str) -> None:
    click.echo(f"{key} = {_json(value)}" + (f"   ({origin})" if origin else ""))


def _json(value: object, indent: int | None = None) -> str:
    """Encode plain values; msgspec refuses the surrogates of a variable that is not UTF-8."""
    separators = None if indent else (",", ":")
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
    return to_text(text, len(text))
