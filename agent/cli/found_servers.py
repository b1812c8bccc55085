"""Uses the inference servers of this machine in commands that run without any configuration."""

from collections.abc import Sequence

from msgspec.structs import replace

from provider_agent.agent.backends.local_servers import (
    WELL_KNOWN_PORTS,
    FoundServer,
    find_local_servers,
)
from provider_agent.agent.config import BackendConfig, LoadedConfig
from provider_agent.agent.config.load import DEFAULT


def ports_text(ports: Sequence[int]) -> str:
    """Return the ports in words, such as "the ports 8000, 8080 and 1234"."""
    *first, last = map(str, ports)
    return f"the ports {', '.join(first)} and {last}" if first else f"the port {last}"


def backend_config(server: FoundServer) -> BackendConfig:
    """Return the `[[backends]]` table of a found server."""
    return BackendConfig(kind=server.kind, url=server.url)


async def use_found_servers(
    loaded: LoadedConfig, ports: Sequence[int] | None = None
) -> tuple[LoadedConfig, str]:
    """Search for servers if there is no file, and no variable that sets backends.

    Args:
        loaded: the configuration.
        ports: the TCP ports of this machine to search; None for the well-known ones.

    Returns:
        The configuration with the found servers as backends, and a text that says so; the
        unchanged configuration and "" if there was no search.
    """
    if loaded.path is not None or loaded.origins.get("backends", DEFAULT) != DEFAULT:
        return loaded, ""
    ports = WELL_KNOWN_PORTS if ports is None else ports
    servers = await find_local_servers(ports)
    if not servers:
        text = f"there is no agent.toml, and no inference server answers on {ports_text(ports)}"
        return loaded, f"{text} of this machine"
    config = replace(loaded.config, backends=tuple(map(backend_config, servers)))
    text = f"there is no agent.toml; found on this machine: {', '.join(map(str, servers))}"
    return replace(loaded, config=config), text
