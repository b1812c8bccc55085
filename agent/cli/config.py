"""`provider-agent config`."""

import click
import msgspec

from provider_agent.agent.cli.settings import with_config
from provider_agent.agent.config import LoadedConfig, masked


@click.group()
def config() -> None:
    """Look at the configuration."""


@config.command(short_help="Show every setting and where it comes from.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@with_config
def show(loaded: LoadedConfig, as_json: bool) -> None:
    """Show every setting and where its value comes from; secrets are masked."""
    settings = masked(loaded.config)
    if as_json:
        shown = {"settings": settings, "origins": loaded.origins, "warnings": loaded.warnings}
        click.echo(msgspec.json.format(msgspec.json.encode(shown, enc_hook=str)).decode())
        return
    for warning in loaded.warnings:
        click.echo(f"note: {warning}", err=True)
    for section, values in settings.items():
        if isinstance(values, dict):
            for name, value in values.items():
                key = f"{section}.{name}"
                _line(key, value, loaded.origins.get(key, ""))
        else:
            _line(section, values, loaded.origins.get(section, ""))


def _line(key: str, value: object, origin: str) -> None:
    text = msgspec.json.encode(value, enc_hook=str).decode()
    click.echo(f"{key} = {text}" + (f"   ({origin})" if origin else ""))
