"""`provider-agent identity`."""

import click

from provider_agent.agent.cli.settings import SetupError, with_local_config
from provider_agent.agent.cli.terminal import visible
from provider_agent.agent.config import LoadedConfig
from provider_agent.agent.identity.key import IdentityError, load_or_create
from provider_agent.agent.identity.provider_id import read_provider_id


@click.command(short_help="Print the public key; create the key if it does not exist.")
@with_local_config
def identity(loaded: LoadedConfig) -> None:
    """Print the agent's public key; create the key file if it does not exist.

    A coordinator's allow-list contains public keys. The private key never leaves the file. The
    provider id is printed once a coordinator of the dialect usepod has sent it.
    """
    print_identity(loaded)


def print_identity(loaded: LoadedConfig) -> str:
    """Print the public key and the provider id; create the key if it does not exist.

    Returns:
        The provider id; "" if none is known.

    Raises:
        SetupError: the key is not usable.
    """
    path = loaded.config.identity.key_path
    try:
        key = load_or_create(path)
    except IdentityError as error:
        raise SetupError(str(error)) from error
    click.echo(f"public key   {key.public_key_text}")
    click.echo(f"fingerprint  {key.fingerprint}")
    click.echo(f"key file     {path}")
    provider_id = visible(read_provider_id(path))
    if provider_id:
        click.echo(f"provider id  {provider_id}")
    return provider_id
