"""Proxy settings from environment variables.

Replaces aiohttp's `trust_env`, which also reads `~/.netrc`. A login in that file for the backend's
host conflicts with the operator's API key: aiohttp 3.14 raises ValueError.
"""

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def environment_proxy(url: str) -> str | None:
    """Return the proxy for a URL; None if none is set or `NO_PROXY` applies.

    The URL's scheme selects `HTTPS_PROXY` or `HTTP_PROXY`. On macOS and Windows the system's proxy
    settings apply if no such variable is set.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or proxy_bypass(f"{host}:{port}" if port else host):
        return None
    return getproxies().get(parts.scheme)
