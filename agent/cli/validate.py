"""`provider-agent validate`: a name that operators of the Rust agent know."""

from pathlib import Path
from typing import Final

import click

from provider_agent.agent.cli.settings import (
    NO_BACKEND,
    SetupError,
    config_option,
    load_settings,
    start_logging,
)
from provider_agent.agent.cli.terminal import counted
from provider_agent.agent.config.addresses import shown_url
from provider_agent.agent.config.dialect import dialect_of, dialect_reason

EXIT_INVALID: Final = 78
"""The configuration is not valid (EX_CONFIG)."""


class _InvalidConfig(click.ClickException):
    exit_code = EXIT_INVALID


@click.command(short_help="Check the configuration alone, without any connection.")
@config_option
@click.option("--allow-insecure", is_flag=True, default=None, help="Allow ws:// to other machines.")
def validate(config_path: Path | None, allow_insecure: bool | None) -> None:
    """Check the configuration alone: no connection, no key, no server.

    The Rust agent (usepod-agent) has a command of this name; `check` also tests key, coordinator
    and servers. Exits with 0 if the configuration is valid, and with 78 otherwise.
    """
    try:
        loaded = load_settings(config_path, {"coordinator.allow_insecure": allow_insecure})
    except SetupError as error:
        raise _InvalidConfig(error.message) from error
    start_logging(loaded, "error")
    config = loaded.config
    url, dialect = config.coordinator.url, dialect_of(config.coordinator, config.coordinator.url)
    click.echo(f"valid        {loaded.path or 'the environment'}")
    click.echo(f"coordinator  {shown_url(url)}")
    click.echo(f"dialect      {dialect} ({dialect_reason(config.coordinator)})")
    click.echo(f"servers      {counted(len(config.backends), 'backend')}")
    for warning in loaded.warnings if config.backends else (str(NO_BACKEND), *loaded.warnings):
        click.echo(f"warning: {warning}", err=True)
