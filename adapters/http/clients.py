"""Chooses the HTTP client for the jobs of a backend."""

from collections.abc import Mapping

from provider_agent.adapters.http.direct_client import DirectClient
from provider_agent.adapters.http.exchange import HttpClient


def new_client(
    url: str,
    headers: Mapping[str, str],
    *,
    proxy: str | None,
    reuse: bool,
    remote: bool,
    connect_s: float,
) -> HttpClient:
    """Create a client; it connects on first use.

    Args:
        url: the URL of the server.
        headers: the headers of every request.
        proxy: the proxy's address; None: connect directly.
        reuse: whether requests may share connections, one after the other.
        remote: whether the server is outside of the operator's network.
        connect_s: the timeout of opening a connection.

    Raises:
        Unreachable: the URL is malformed.
        ValueError: a header contains a line break or NUL.
    """
    if proxy is None:
        return DirectClient(url, headers, reuse=reuse, remote=remote, connect_s=connect_s)
    # Only operators with a proxy need aiohttp for their jobs.
    from provider_agent.adapters.http.aiohttp_connections import AiohttpConnections
    from provider_agent.adapters.http.proxied_client import ProxiedClient

    connections = AiohttpConnections(reuse=reuse, remote=remote, connect_s=connect_s, proxy=proxy)
    return ProxiedClient(url, headers, connections)
