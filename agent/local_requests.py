"""Which requests to the status server come from a program on this machine."""

from urllib.parse import urlsplit

from provider_agent.agent.config.addresses import is_loopback


def is_local(peer: str | None, host: str | None) -> bool:
    """Whether a request comes from this machine, and is not one of a web page.

    A web page of any site may direct a browser on this machine to a name that it resolves to a
    loopback address (DNS rebinding); then the header `Host` has that name.

    Args:
        peer: the address of the client.
        host: the header `Host`; None without one. Not aiohttp's `request.host`, which then asks the
            resolver for this machine's name, and blocks the event loop.
    """
    return is_loopback(peer or "") and is_loopback(requested_name(host or "") or "")


def requested_name(host: str) -> str | None:
    """Return the name or address in a header `Host`, without its port; None if it is malformed."""
    try:
        return urlsplit(f"http://{host}").hostname
    except ValueError:
        return None
