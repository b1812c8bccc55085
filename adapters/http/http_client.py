"""Chooses the HTTP client of a server: direct, or through a proxy."""

from collections.abc import Mapping

from provider_agent.adapters.http.client import HttpClient
from provider_agent.adapters.http.direct_client import DirectClient


def http_client(
    url: str,
    headers: Mapping[str, str],
    *,
    reuse: bool,
    remote: bool,
    connect_s: float,
    proxy: str | None,
) -> HttpClient:
    """Return a client. Connections open on first use.

    Args:
        url: the URL of the server.
        headers: the headers of every request.
        reuse: whether requests may share connections, one after the other.
        remote: whether the server is outside of the operator's network.
        connect_s: the timeout of opening a connection.
        proxy: the URL of an HTTP proxy; None: connect directly.

    Raises:
        Unreachable: the URL is malformed.
        ValueError: a header contains a line break or NUL.
    """
    if proxy is None:
        return DirectClient(url, headers, reuse=reuse, remote=remote, connect_s=connect_s)
    # Imported here because aiohttp takes a third of the time and memory of all imports.
    from provider_agent.adapters.http.aiohttp_connections import AiohttpConnections
    from provider_agent.adapters.http.proxied_client import ProxiedClient

    connections = AiohttpConnections(reuse=reuse, remote=remote, connect_s=connect_s, proxy=proxy)
    return ProxiedClient(url, headers, connections)
