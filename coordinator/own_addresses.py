"""The addresses of this machine at which other machines can reach it."""

import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import Final

MAX_ADDRESSES: Final = 8
"""A longer list, as on a host of many containers, makes the choice of one harder."""

# Netlink, the kernel's interface behind `ip address` (rtnetlink(7)).
_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=IHHIIBxxx")
_ADDRESS: Final = struct.Struct("=BBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_DONE, _NEW_ADDRESS, _GET_ADDRESS, _REQUEST_DUMP = 3, 20, 22, 0x301
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_MAX_SCOPE: Final = 200
"""Global and site addresses; link-local and loopback addresses have higher numbers."""


def own_addresses(family: int = socket.AF_UNSPEC) -> list[str]:
    """Return this machine's addresses that other machines can dial, at most `MAX_ADDRESSES`.

    Those of the default routes are the first, because a host of many containers has a network for
    each; then IPv4. Loopback and link-local addresses are left out. Where the system does not list
    its addresses, only those of the default routes are returned.

    Args:
        family: `AF_INET` or `AF_INET6` for only these; `AF_UNSPEC` for both.
    """
    try:
        found = list(_listed_by_the_kernel())
    except (OSError, AttributeError, struct.error):  # not Linux, or a sandbox refuses the question
        found = list(_of_default_routes())
    routed = set(map(ipaddress.ip_address, _of_default_routes()))
    parsed = {ipaddress.ip_address(text) for text in found}
    addresses = sorted(
        parsed, key=lambda address: (address not in routed, address.version, int(address))
    )
    unwanted = {int(socket.AF_INET): 6, int(socket.AF_INET6): 4}.get(family)
    chosen = [str(address) for address in addresses if address.version != unwanted]
    return chosen[:MAX_ADDRESSES]


def _listed_by_the_kernel() -> Iterator[str]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.settimeout(1.0)
        netlink.send(_REQUEST.pack(20, _GET_ADDRESS, _REQUEST_DUMP, 1, 0, socket.AF_UNSPEC))
        while True:
            data = netlink.recv(65_536)
            while data:
                size, kind, *_ = _HEADER.unpack_from(data)
                if kind == _DONE:
                    return
                if kind != _NEW_ADDRESS:
                    raise OSError("the kernel does not list its addresses")
                yield from _address(data[_HEADER.size : size])
                data = data[_aligned(size) :]


def _address(message: bytes) -> Iterator[str]:
    family, _, _, scope, _ = _ADDRESS.unpack_from(message)
    if scope > _MAX_SCOPE:
        return
    attributes = {}
    rest = message[_ADDRESS.size :]
    while len(rest) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(rest)
        attributes[kind] = rest[_ATTRIBUTE.size : size]
        rest = rest[_aligned(max(size, _ATTRIBUTE.size)) :]
    # On a point-to-point link, only `_IFA_LOCAL` is this machine's address.
    packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    if packed:
        yield socket.inet_ntop(family, packed)


def _aligned(size: int) -> int:
    return (size + 3) & ~3


def _of_default_routes() -> Iterator[str]:
    """Return the local addresses of sockets that would reach a documentation address (RFC 5737)."""
    routes = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
    for family, elsewhere in routes:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((elsewhere, 9))  # sends nothing
                yield probe.getsockname()[0]
        except OSError:
            continue  # no route for this family
