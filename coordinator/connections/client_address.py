"""The address of a client, which may be behind a proxy."""

import ipaddress
from collections.abc import Iterable
from typing import Final

from aiohttp import web

FORWARDED_FOR: Final = "X-Forwarded-For"


class ProxyNetworks:
    """The networks of trusted reverse proxies.

    Args:
        networks: IP addresses, or networks such as `10.0.0.0/8`.

    Raises:
        ValueError: an entry is neither.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]

    def __repr__(self) -> str:
        return f"<ProxyNetworks {', '.join(map(str, self._networks))}>"

    def contain(self, address: str) -> bool:
        """Whether an address is that of a trusted proxy."""
        if not self._networks:
            return False
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)


def client_address(request: web.Request, proxies: ProxyNetworks) -> str:
    """Return the address of the peer, or of the client in front of a trusted proxy.

    Each proxy appends the address of its own peer to `X-Forwarded-For`, so that only the entries of
    trusted proxies can be believed: they are read from the last one backwards.
    """
    address = request.remote or ""
    entries = ",".join(request.headers.getall(FORWARDED_FOR, ())).split(",")
    while entries and proxies.contain(address):
        address = _without_port(entries.pop().strip()) or address
    return address


def _without_port(entry: str) -> str:
    """Return an entry of `X-Forwarded-For` without the port that some proxies append.

    Each connection of one client has another port, and would count as another address.
    """
    if entry.startswith("["):  # [2001:db8::1]:443
        return entry[1:].partition("]")[0]
    host, _, port = entry.partition(":")
    return host if port.isdigit() else entry
