"""What the coordinator prints at its start: addresses that work, and who has access."""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from provider_agent.coordinator.cluster.settings import ClusterSettings
from provider_agent.coordinator.own_addresses import own_addresses
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import (
    CoordinatorSettings,
    ExtraDialect,
    is_loopback,
    is_wildcard,
)
from provider_agent.protocol.auth import canonical_authority
from provider_agent.protocol.limits import CONNECT_PATH, SUBPROTOCOL

_PLAIN_PORT: Final = 80


def describe(
    coordinator: Coordinator, addresses: Callable[[int], Sequence[str]] = own_addresses
) -> list[str]:
    """Return lines that state the purpose, the addresses and who has access, without secrets.

    Args:
        coordinator: the running coordinator.
        addresses: returns this machine's addresses of one address family.
    """
    settings = coordinator.settings
    clients = "open, no API key required" if settings.open_to_clients else "API key required"
    agents = "open, every agent is admitted" if settings.open_to_agents else "enrolled agents only"
    own = _own_authorities(coordinator, addresses)
    dialed = coordinator.authorities if settings.authorities else own
    connect_urls = [_connect_url(authority, coordinator.port) for authority in dialed]
    may_dial = list(dict.fromkeys([*coordinator.authorities, *dialed]))
    return [
        "Reference coordinator: for development, tests and self-hosted fleets.",
        *_list("clients", [f"http://{authority}" for authority in own], clients),
        *_list("agents", connect_urls, agents),
        f"  agents may dial {', '.join(may_dial)}",
        *_dialects(settings),
        *_cluster(settings.cluster),
        *_other_machines(connect_urls, has_codes=settings.enrollment_codes is not None),
        *_warnings(settings, connect_urls),
    ]


def _dialects(settings: CoordinatorSettings) -> list[str]:
    if not settings.dialects:
        return []
    lines = [f"  dialects {SUBPROTOCOL}, {', '.join(sorted(settings.dialects))}"]
    if settings.enrollment_codes is not None and settings.agent_keys is None:
        lines.append(
            f"  agents of the dialect {ExtraDialect.USEPOD} send their code only once: after a "
            "restart of the coordinator,\n  only --agent-keys FILE admits them"
        )
    return lines


def _cluster(cluster: ClusterSettings | None) -> list[str]:
    """Return what connects the coordinator to others, without passwords."""
    if cluster is None:
        return []
    lines = [f"  cluster  {cluster.prefix}, through {', '.join(cluster.servers)}"]
    if any(url.startswith(("nats:", "ws:")) and _is_remote(url) for url in cluster.urls):
        lines.append(
            "  WARNING: prompts and answers may cross the network to NATS unencrypted; give "
            "--cluster tls://HOST"
        )
    return lines


def _warnings(settings: CoordinatorSettings, connect_urls: Sequence[str]) -> list[str]:
    """Return warnings for a coordinator on loopback that a proxy opens to others.

    Beyond loopback, the settings require keys.
    """
    if not (settings.trusted_proxies or any(map(_is_remote, connect_urls))):
        return []
    warnings = []
    if settings.open_to_clients:
        warnings.append(
            "  WARNING: everyone who reaches the proxy may send requests; give --api-keys FILE"
        )
    if settings.open_to_agents:
        warnings.append(
            "  WARNING: everyone who reaches the proxy may act as an agent, and receive prompts; "
            "give --enrollment-codes FILE or --agent-keys FILE"
        )
    return warnings


def _is_remote(url: str) -> bool:
    return not is_loopback(urlsplit(url).hostname or "")


def _own_authorities(
    coordinator: Coordinator, addresses: Callable[[int], Sequence[str]]
) -> list[str]:
    """Return the addresses at which the coordinator listens, as `host:port`."""
    host = coordinator.settings.host
    if not is_wildcard(host):
        return [coordinator.authority]
    is_ipv4 = host != "" and ipaddress.ip_address(host.strip("[]")).version == 4
    family = socket.AF_INET if is_ipv4 else socket.AF_UNSPEC
    hosts = ["127.0.0.1", *addresses(family)]
    return [canonical_authority("ws", host, coordinator.port) for host in hosts]


def _connect_url(authority: str, port: int) -> str:
    """Return the address for agents; on another port than the coordinator's, a proxy adds TLS."""
    host, _, dialed = authority.rpartition(":")
    if int(dialed) == port:
        return f"ws://{authority}{CONNECT_PATH}"
    if int(dialed) == _PLAIN_PORT:
        return f"ws://{host}{CONNECT_PATH}"
    return f"wss://{host if dialed == '443' else authority}{CONNECT_PATH}"


def _list(name: str, urls: Sequence[str], access: str) -> list[str]:
    first, *others = urls
    return [f"  {name:<8} {first}  ({access})", *(f"{'':<11}{url}" for url in others)]


def _other_machines(connect_urls: Sequence[str], *, has_codes: bool) -> list[str]:
    """Return how to set up an agent on another machine, if one can reach this coordinator."""
    remote = list(filter(_is_remote, connect_urls))
    if not remote:
        return []
    is_plain = remote[0].startswith("ws://")
    command = "provider-agent init --coordinator-url " + remote[0]
    lines = [f"  on another machine: {command}{' --allow-insecure' if is_plain else ''}"]
    if has_codes:
        lines.append(
            "  init asks for the enrollment code, or reads it from "
            "PROVIDER_AGENT_COORDINATOR_ENROLLMENT_CODE"
        )
    lines.append("  then: provider-agent check, and provider-agent run")
    if is_plain:
        lines.append(
            "  --allow-insecure: prompts, answers and API keys cross the network unencrypted. With "
            "TLS in front\n"
            "  (docs/coordinator.md), add --authority NAME; agents then dial "
            f"wss://NAME{CONNECT_PATH}"
        )
    return lines
