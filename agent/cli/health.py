"""`provider-agent health`: a health check for containers, whose images then need no curl."""

import sys

import click

from provider_agent.agent.cli.settings import run_async, with_local_config
from provider_agent.agent.cli.status_client import NoAgent, WantedAgent, fetch_status_page
from provider_agent.agent.cli.terminal import visible
from provider_agent.agent.config import LoadedConfig


@click.command(short_help="Check whether the running agent is alive.")
@click.option("--ready", is_flag=True, help="Check whether it can accept jobs.")
@with_local_config
def health(loaded: LoadedConfig, ready: bool) -> None:
    """Exit with 0 if the running agent is alive (with --ready: can accept jobs), else with 1."""
    address = loaded.config.observability.prometheus_addr
    path = "/readyz" if ready else "/livez"
    try:
        page = run_async(fetch_status_page(address, path, WantedAgent.of(loaded)))
    except NoAgent as error:
        raise click.ClickException(str(error)) from error
    if page.note:
        click.echo(page.note, err=True)
    click.echo(visible(page.body.decode(errors="replace").rstrip(), keep="\n"))
    sys.exit(0 if page.status == 200 else 1)
