"""Addresses in the configuration: read, checked and brought into one form. Pure functions.

Each raises ValueError with a reason for the operator that does not repeat the value: a URL may hold
a password.
"""

import ipaddress
from urllib.parse import SplitResult, urlsplit

from provider_agent.agent.config.errors import InvalidValue
from provider_agent.protocol.auth import canonical_authority


def backend_url(text: str) -> str:
    """The base address of an inference server, without a trailing `/` or `/v1`."""
    parts = _split(text, ("http", "https"))
    if parts.query or parts.fragment:
        raise ValueError('an address must not hold "?" or "#"')
    return text.strip().rstrip("/").removesuffix("/v1").rstrip("/")


def coordinator_url(text: str, *, allow_insecure: bool) -> str:
    """The address of the coordinator: `wss://`, or `ws://` on this machine or when allowed."""
    parts = _split(text, ("wss", "ws"))
    if parts.fragment:
        raise ValueError('an address must not hold "#"')
    canonical_authority(parts.scheme, parts.hostname or "", parts.port)  # what will be signed
    if parts.scheme == "ws" and not allow_insecure and not is_loopback(parts.hostname or ""):
        raise InvalidValue(
            "ws:// would send prompts in the clear",
            "use wss://, or set coordinator.allow_insecure (--allow-insecure) in a private network",
        )
    return text.strip()


def proxy_url(text: str) -> str:
    """The address of an HTTP proxy; a user and password may stand in it."""
    _split(text, ("http", "https"), credentials=True)
    return text.strip()


def listen_address(text: str) -> tuple[str, int]:
    """Host and port of a `host:port` to listen on; an IPv6 address stands in brackets."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError('expected host:port, such as "127.0.0.1:9090", or "" to turn it off')
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        raise ValueError('an IPv6 address stands in brackets: "[::1]:9090"')
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether a host name or address never leaves this machine."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(text: str, schemes: tuple[str, ...], *, credentials: bool = False) -> SplitResult:
    """The parts of a URL with one of these schemes and a host."""
    expected = " or ".join(f"{scheme}://" for scheme in schemes)
    try:
        parts = urlsplit(text.strip())
        _ = parts.port  # read for its check of the range
    except ValueError as error:
        raise InvalidValue("not an address", f"expected {expected}host[:port]") from error
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError(f"expected an address that begins with {expected} and names a host")
    if not credentials and "@" in parts.netloc:
        raise InvalidValue("an address must not hold a user or password", "put keys in a variable")
    if any(character.isspace() for character in text.strip()):
        raise ValueError("an address must not hold spaces")
    return parts
