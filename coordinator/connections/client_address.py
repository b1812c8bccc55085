"""The address of a client, which may be behind a proxy."""

from collections.abc import Collection
from typing import Final

from aiohttp import web

FORWARDED_FOR: Final = "X-Forwarded-For"


def client_address(request: web.Request, trusted_proxies: Collection[str]) -> str:
    """Return the address of the peer, or of the client in front of a trusted proxy.

    Each proxy appends the address of its own peer to `X-Forwarded-For`, so that only the entries of
    trusted proxies can be believed: they are read from the last one backwards.
    """
    address = request.remote or ""
    entries = ",".join(request.headers.getall(FORWARDED_FOR, ())).split(",")
    while address in trusted_proxies and entries:
        address = entries.pop().strip() or address
    return address
