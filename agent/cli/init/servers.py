"""Finds the inference servers of this machine, and asks each for its models."""

import asyncio
from collections.abc import Mapping, Sequence

import click

from provider_agent.adapters.base import BackendSettings
from provider_agent.adapters.registry import create_backend
from provider_agent.agent.backends.health_check import BackendState, check_backend
from provider_agent.agent.backends.local_servers import FoundServer, find_local_servers
from provider_agent.agent.cli.init.document import OfferedServer
from provider_agent.agent.cli.settings import run_async


async def find_servers(ports: Sequence[int], environ: Mapping[str, str]) -> list[OfferedServer]:
    """Return the servers on these ports of this machine, each with its models.

    Args:
        ports: TCP ports on 127.0.0.1.
        environ: the environment, for the key of a server that requires one.
    """
    servers = await find_local_servers(ports)
    return await asyncio.gather(*(_describe(server, environ) for server in servers))


def search_servers(ports: Sequence[int], environ: Mapping[str, str]) -> list[OfferedServer]:
    """As `find_servers`, for a command: runs an event loop, and prints what was found."""
    servers = run_async(find_servers(ports, environ))
    for offered in servers:
        click.echo(f"found {offered.server}: {offered.summary}", err=True)
    return servers


async def _describe(server: FoundServer, environ: Mapping[str, str]) -> OfferedServer:
    state, variable = await _check(server, None), ""
    if state.health.key_refused:
        variable = f"{server.product.upper()}_API_KEY"
        key = environ.get(variable, "").strip()
        if not key:
            text = f"it requires a key: put it into the variable {variable}"
            return OfferedServer(server, key_variable=variable, problem=text)
        state = await _check(server, key)
    models = tuple(model.model_id for model in state.models)
    return OfferedServer(server, models, variable, state.health.last_error or "")


async def _check(server: FoundServer, api_key: str | None) -> BackendState:
    settings = BackendSettings(kind=server.kind, url=server.url, api_key=api_key)
    backend = create_backend(settings)
    try:
        return await check_backend(backend)
    finally:
        await backend.close()
