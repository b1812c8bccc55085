"""`provider-agent version`."""

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

import click

from provider_agent.agent.version import agent_version, is_compiled
from provider_agent.protocol.limits import SUBPROTOCOL


@click.command(short_help="Print the versions of the agent and its libraries.")
def version() -> None:
    """Print the versions of the agent, its protocol, Python and the main libraries.

    "compiled" says whether the agent's hot modules are compiled (docs/performance.md).
    """
    click.echo(f"provider-agent {agent_version()}")
    click.echo(f"compiled       {'yes' if is_compiled() else 'no'}")
    click.echo(f"protocol       {SUBPROTOCOL}")
    click.echo(f"python         {platform.python_version()} on {platform.platform(terse=True)}")
    for name in ("websockets", "aiohttp", "httptools", "msgspec", "uvloop"):
        click.echo(f"{name:<14} {_version_of(name)}")


def _version_of(distribution: str) -> str:
    try:
        return version_of(distribution)
    except PackageNotFoundError:
        return "not installed"  # uvloop is not built for Windows
