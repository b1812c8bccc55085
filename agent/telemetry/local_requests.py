"""Which requests come from a program on this machine."""

from ipaddress import IPv6Address, ip_address


def is_local(peer: str | None, host: str) -> bool:
    """Whether a request comes from this machine, and is not one of a web page.

    A web page of any site may direct a browser on this machine to a name that it resolves to a
    loopback address (DNS rebinding); then the header `Host` has that name.

    Args:
        peer: the address of the client.
        host: the header `Host`.
    """
    return _is_loopback(peer or "") and _is_loopback(_without_port(host))


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
