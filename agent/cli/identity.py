"""`provider-agent identity`."""

import click

from provider_agent.agent.cli.settings import SetupProblem, with_local_config
from provider_agent.agent.config import LoadedConfig
from provider_agent.agent.identity.key import IdentityError, load_or_create


@click.command(short_help="Show the public key; create the key when there is none.")
@with_local_config
def identity(loaded: LoadedConfig) -> None:
    """Show the agent's public key, and create the key file when there is none.

    The public key is what a coordinator's allow-list takes. The private key never leaves the file.
    """
    path = loaded.config.identity.key_path
    try:
        key = load_or_create(path)
    except IdentityError as error:
        raise SetupProblem(str(error)) from error
    click.echo(f"public key   {key.public_key_text}")
    click.echo(f"fingerprint  {key.fingerprint}")
    click.echo(f"key file     {path}")
