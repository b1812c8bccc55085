"""`provider-agent enroll`: a name that operators of the Rust agent know."""

import click

from provider_agent.agent.cli.identity import print_identity
from provider_agent.agent.cli.settings import with_local_config
from provider_agent.agent.config import LoadedConfig


@click.command(short_help="As identity, and how to pair with the Use Pod marketplace.")
@with_local_config
def enroll(loaded: LoadedConfig) -> None:
    """Print what `identity` prints, and how this agent is paired if it has no provider id yet.

    It enrolls nothing; `setup` pairs an agent. The Rust agent (usepod-agent) has a command of this
    name.
    """
    if print_identity(loaded):
        return
    click.echo("provider id  none yet")
    if loaded.config.coordinator.enrollment_code:
        click.echo(
            "\nThe enrollment code is set; the coordinator sends the id at the next connection."
        )
    else:
        click.echo("\nTo pair: `provider-agent setup` shows a code, and the page that accepts it.")
