"""Decides which requests the status server answers, so that no web page can read its state.

A web page cannot read another origin. With DNS rebinding, its own host name gets the address of
the status server; the browser then sends that name in `Host`. So the server answers only for names
that cannot exist on the internet, and for addresses, which no rebinding can produce.
"""

import ipaddress
from collections.abc import Collection

from provider_agent.agent.config.addresses import is_loopback, is_public
from provider_agent.agent.local_requests import requested_name


class HostCheck:
    """The hosts that a status server answers for.

    These are all IP addresses, `localhost`, the host that it listens on, and those that the
    operator allows. A server that listens beyond loopback also answers for names that exist only
    in private networks, such as `agent` or `agent.monitoring.svc`: a program that can assign
    such a name can reach the server anyway.

    Args:
        listening_host: the host that the server listens on.
        allowed: further names, from the configuration.
    """

    def __init__(self, listening_host: str, allowed: Collection[str] = ()) -> None:
        self._names = {_normal(name) for name in (listening_host, *allowed)}
        self._private_names = not is_loopback(listening_host)

    def accepts(self, host: str | None, origin: str | None) -> bool:
        """Return whether to answer a request with these headers; None: the header is missing.

        Browsers always send `Host`, and send `Origin` with a GET only to another origin.
        """
        if host is None:
            return origin is None
        if origin is not None and origin.lower() != f"http://{host}".lower():
            return False
        name = requested_name(host)
        return name is not None and self._accepts_name(_normal(name))

    def _accepts_name(self, name: str) -> bool:
        if name in self._names or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return self._private_names and not is_public(name)
        return True


def _normal(name: str) -> str:
    return name.lower().rstrip(".")
