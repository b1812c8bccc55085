"""The proxy that the environment names for an address.

aiohttp's `trust_env` would do, but it reads `~/.netrc` along with it, and a login that stands
there for the same host collides with the operator's key: aiohttp 3.14 raises ValueError.
"""

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def environment_proxy(url: str) -> str | None:
    """The proxy of `HTTPS_PROXY` or `HTTP_PROXY`, unless `NO_PROXY` names the host."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or proxy_bypass(f"{host}:{port}" if port else host):
        return None
    return getproxies().get(parts.scheme)
