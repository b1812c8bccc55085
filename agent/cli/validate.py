"""`provider-agent validate`: a name that operators of the Rust agent know."""

from pathlib import Path
from typing import Final

import click

from provider_agent.agent.backends.offer_warnings import is_offered_in_usepod
from provider_agent.agent.cli.settings import (
    NO_BACKEND,
    SetupError,
    config_option,
    load_settings,
    start_logging,
)
from provider_agent.agent.cli.terminal import counted
from provider_agent.agent.config import LoadedConfig
from provider_agent.agent.config.addresses import shown_url
from provider_agent.agent.config.dialect import USEPOD, dialect_of, dialect_reason
from provider_agent.agent.config.files import RUST_AGENT_FOLDER
from provider_agent.agent.config.schema import PricingConfig

EXIT_INVALID: Final = 78
"""The configuration is not valid (EX_CONFIG)."""


_NO_PRICE: Final = (
    "[pricing] has no price above 0: in the dialect usepod, no model of a local server is offered; "
    "set default_input_per_1m and default_output_per_1m"
)

_OTHER_DIALECT: Final = (
    "the file is that of usepod-agent, which speaks the dialect usepod; set "
    'dialect = "usepod" in [coordinator] if the coordinator speaks only that'
)


def _has_price(pricing: PricingConfig) -> bool:
    defaults = pricing.default_input_per_1m and pricing.default_output_per_1m
    return bool(defaults) or any(map(is_offered_in_usepod, pricing.models.values()))


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
    for warning in _warnings(loaded, dialect):
        click.echo(f"warning: {warning}", err=True)


def _warnings(loaded: LoadedConfig, dialect: str) -> list[str]:
    """Return what a valid configuration probably lacks."""
    config, warnings = loaded.config, list(loaded.warnings)
    if not config.backends:
        warnings.insert(0, str(NO_BACKEND))
    elif dialect == USEPOD and not _has_price(config.pricing):
        warnings.append(_NO_PRICE)
    is_rust_agents = loaded.path is not None and loaded.path.parent.name == RUST_AGENT_FOLDER
    if is_rust_agents and config.coordinator.dialect is None and dialect != USEPOD:
        warnings.append(_OTHER_DIALECT)
    return warnings
