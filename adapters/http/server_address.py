"""The parts of a backend's URL that a direct connection needs."""

from urllib.parse import quote, urlsplit

from msgspec import Struct

from provider_agent.adapters.http import failures

_DEFAULT_PORTS = {"http": 80, "https": 443}
_PATH_SAFE = "/%:@!$&'()*+,;=~?"


class ServerAddress(Struct, frozen=True):
    """Where a server listens.

    Attributes:
        host: a name or an IP address without brackets.
        port: its TCP port.
        is_tls: whether the scheme is `https`.
        authority: the value of the `Host` header.
        path: what precedes the path of each request; without a slash at its end.
    """

    host: str
    port: int
    is_tls: bool
    authority: str
    path: str


def parse_address(url: str) -> ServerAddress:
    """Split an `http` or `https` URL.

    Raises:
        Unreachable: the URL is malformed, or has another scheme.
    """
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
        if not host.isascii():
            host = host.encode("idna").decode()
    except ValueError as error:
        raise failures.invalid_url() from error
    default = _DEFAULT_PORTS.get(parts.scheme)
    if default is None or not host or not host.isprintable() or " " in host:
        raise failures.invalid_url()
    authority = f"[{host}]" if ":" in host else host
    if port not in (None, default):
        authority += f":{port}"
    path = quote(parts.path, safe=_PATH_SAFE).rstrip("/")
    return ServerAddress(host, port or default, parts.scheme == "https", authority, path)
