"""Which requests to the status server come from a program on this machine."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from provider_agent.agent.config.addresses import is_loopback

_FORWARDED: Final = ("Forwarded", "Via", "X-Forwarded-For", "X-Real-IP")
"""Headers with which a proxy on this machine passes on the requests of others."""


def is_local(peer: str | None, headers: Mapping[str, str]) -> bool:
    """Whether a request comes from this machine, and is neither forwarded nor one of a web page.

    A web page of any site may direct a browser on this machine to a name that it resolves to a
    loopback address (DNS rebinding); then the header `Host` has that name.

    Args:
        peer: the address of the client.
        headers: of the request; their names in any case. `Host` is read from them because aiohttp's
            `request.host` asks the resolver for this machine's name if the header is missing, which
            blocks the event loop.
    """
    if any(name in headers for name in _FORWARDED):
        return False
    host = requested_name(headers.get("Host", ""))
    return is_loopback(peer or "") and is_loopback(host or "")


def requested_name(host: str) -> str | None:
    """Return the name or address in a header `Host`, without its port; None if it is malformed."""
    try:
        return urlsplit(f"http://{host}").hostname
    except ValueError:
        return None
