"""Parses, validates and normalizes the addresses in the configuration.

An invalid address raises ValueError with a reason that does not repeat the value, which may contain
a password.
"""

import ipaddress
import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

from provider_agent.agent.config.errors import InvalidValue
from provider_agent.protocol.auth import canonical_authority

MASK: Final = "[set]"
"""Placeholder for a secret that is set."""

MAX_LABEL_CHARS: Final = 63
"""The longest part of a host name between two dots (RFC 1035, section 2.3.4)."""

MAX_HOST_CHARS: Final = 253
"""The longest host name in text form: 255 bytes in DNS messages (RFC 1035, section 2.3.4)."""


MAX_PORTS: Final = 100
"""The most ports of one address to listen on: `status` asks at all of them."""


def shown_url(url: str) -> str:
    """Return an address as messages, logs and the status show it: user and query are masked.

    Any text is accepted, also one that is no address.
    """
    address, mark, _ = re.sub(r"(?<=://)[^/]*@", f"{MASK}@", url).partition("?")
    return f"{address}?{MASK}" if mark else address


def backend_url(text: str) -> str:
    """Return the base address of an inference server, without a trailing `/` or `/v1`."""
    _split(text, ("http", "https"))
    if "?" in text or "#" in text:
        raise InvalidValue('an address must not contain "?" or "#"', "remove that part")
    return text.strip().rstrip("/").removesuffix("/v1").rstrip("/")


def coordinator_url(text: str, *, allow_insecure: bool) -> str:
    """Return the address of a coordinator: `wss://`, or `ws://` to this machine or when allowed."""
    parts = _split(text, ("wss", "ws"))
    if "#" in text:
        raise InvalidValue('an address must not contain "#"', "remove that part")
    # Raises ValueError for a host that cannot be part of the handshake's signed authority.
    canonical_authority(parts.scheme, parts.hostname or "", parts.port)
    if parts.scheme == "ws" and not allow_insecure and not is_loopback(parts.hostname or ""):
        raise InvalidValue(
            "ws:// would send prompts unencrypted",
            "use wss://, or set coordinator.allow_insecure (option --allow-insecure) "
            "in a private network",
        )
    return text.strip()


def proxy_url(text: str) -> str:
    """Return the address of an HTTP proxy, which may contain a user and a password."""
    _split(text, ("http", "https"), credentials=True)
    return text.strip()


def listen_address(text: str) -> tuple[str, range]:
    """Return host and ports of a `host:port` to listen on; an IPv6 address needs brackets.

    Of several ports, such as `host:8490-8499`, a server listens on the first free one.
    """
    host, colon, ports = text.strip().rpartition(":")
    first, dash, last = ports.partition("-")
    numbers = [_port(first), _port(last) if dash else _port(first)]
    if not colon or not host or min(numbers) < 0 or not 0 <= numbers[1] - numbers[0] < MAX_PORTS:
        raise ValueError(
            'expected host:port or host:first-last, such as "127.0.0.1:8490", or "" to turn it off'
        )
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        raise ValueError('an IPv6 address needs brackets, such as "[::1]:8490"')
    return host.strip("[]"), range(numbers[0], numbers[1] + 1)


def host_name(text: str) -> str:
    """Return a host name, without scheme and port, in lower case."""
    name = text.strip().lower().rstrip(".")
    if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", name):
        raise InvalidValue("not a host name", 'write only the name, such as "agent.example"')
    _check_host(name)
    return name


def _port(text: str) -> int:
    """Return the number of a port; -1 if the text is none."""
    is_number = text.isascii() and text.isdigit() and len(text) <= len("65535")
    return int(text) if is_number and int(text) <= 65535 else -1


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's loopback."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # Before 3.13, Python does not see that ::ffff:127.0.0.1 is an IPv4 address.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


_LOCAL_DOMAINS: Final = frozenset({"localhost", "local", "lan", "internal", "home", "arpa", "svc"})
"""The last labels of names that are used only within a network, by standard (RFC 6761, RFC 6762,
RFC 8375) or by custom (`svc`: services of Kubernetes)."""


def is_public(host: str) -> bool:
    """Return whether a host name or address is probably one of the internet."""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        name = host.lower().rstrip(".")
        return "." in name and name.rpartition(".")[2] not in _LOCAL_DOMAINS


def _split(text: str, schemes: tuple[str, ...], *, credentials: bool = False) -> SplitResult:
    """Return the parts of a URL with one of these schemes and a host."""
    expected = " or ".join(f"{scheme}://" for scheme in schemes)
    try:
        parts = urlsplit(text.strip())
        _ = parts.port  # raises ValueError when it is out of range
    except ValueError as error:
        raise InvalidValue("not an address", f"expected {expected}host[:port]") from error
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError(f"expected an address that begins with {expected} and contains a host")
    if not credentials and "@" in parts.netloc:
        raise InvalidValue(
            "an address must not contain a user or password",
            "remove it; api_key_env names the variable of a backend's key",
        )
    if any(character.isspace() for character in text.strip()):
        raise InvalidValue("an address must not contain spaces", "remove them")
    if parts.port == 0:
        raise InvalidValue("no server has port 0", "write the server's port")
    _check_host(parts.hostname)
    return parts


def _check_host(host: str) -> None:
    """Refuse a name that DNS cannot resolve, so that it is not dialed again and again."""
    name = host.removesuffix(".")
    if ":" in name or not name.isascii():  # an IPv6 address, or a name that IDNA will encode
        return
    labels = name.split(".")
    if len(name) > MAX_HOST_CHARS or not all(0 < len(label) <= MAX_LABEL_CHARS for label in labels):
        raise InvalidValue(
            f"no host has such a name: the parts of a host name have 1 to {MAX_LABEL_CHARS} "
            f"characters, and the whole name at most {MAX_HOST_CHARS}",
            "correct the host",
        )
