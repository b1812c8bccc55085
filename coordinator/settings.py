"""The coordinator's settings, and the checks that they must pass."""

import ipaddress
import re
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from provider_agent.coordinator.access import SecretSet
from provider_agent.coordinator.cluster.settings import ClusterSettings, check_cluster
from provider_agent.coordinator.exceptions import SettingsError
from provider_agent.protocol.auth import canonical_authority
from provider_agent.protocol.limits import (
    HANDSHAKE_TIMEOUT_S,
    HEARTBEAT_MS,
    MAX_DEADLINE_MS,
    MAX_REQUEST_BYTES,
    MIB,
    MIN_WINDOW_BYTES,
    RESUME_MS,
    USEPOD_DIALECT,
    WINDOW_BYTES,
)
from provider_agent.protocol.receipts import FEATURE

DEFAULT_PORT: Final = 8700
"""Not a well-known port of an inference server."""

_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
"""A host name, an IPv4 address, or an IPv6 address without its brackets."""


_DAY_S: Final = 86_400
_MANY: Final = 1_000_000

RANGES: Final[dict[str, tuple[float, float]]] = {
    "port": (0, 65_535),
    "deadline_s": (0, MAX_DEADLINE_MS / 1000),
    "deadline_grace_s": (0, _DAY_S),
    "body_timeout_s": (0, _DAY_S),
    "stalled_client_s": (1, _DAY_S),
    "handshake_timeout_s": (0, 600),
    "heartbeat_ms": (100, 3_600_000),
    "resume_ms": (0, 3_600_000),
    "window_bytes": (MIN_WINDOW_BYTES, 2**30),
    "max_request_bytes": (2, MAX_REQUEST_BYTES),
    "max_requests": (1, _MANY),
    "max_queued": (0, _MANY),
    "queue_s": (0, _DAY_S),
    "max_agents": (1, _MANY),
    "max_attempts": (1, 100),
    "max_price": (0, 1e9),
    "max_requests_per_minute": (1, _MANY),
    "max_tokens_per_minute": (1, 10**9),
    "max_connections": (1, _MANY),
    "max_unauthenticated": (1, _MANY),
    "max_unauthenticated_per_address": (1, _MANY),
    "keep_alive_s": (1, _DAY_S),
    "max_held_request_bytes": (2, 2**50),
    "drain_s": (0, _DAY_S),
}
"""The lowest and the highest value of each number in the settings."""


class ReceiptMode(StrEnum):
    """Which receipts the coordinator asks for.

    Attributes:
        OFF: none.
        HASH: the hash of each response, which shows that all of it arrived unchanged.
        SIGNED: also the agent's signature over hash and usage, which the log keeps.
    """

    OFF = "off"
    HASH = "hash"
    SIGNED = "signed"


class ExtraDialect(StrEnum):
    """A dialect that agents may use instead of `provider-agent.v1`.

    Attributes:
        USEPOD: the JSON dialect of the Use Pod marketplace.
    """

    USEPOD = USEPOD_DIALECT


class CoordinatorSettings(Struct, frozen=True, kw_only=True):
    """All settings. The defaults suit a single machine.

    Attributes:
        host: address or name to listen on. `::` also means every IPv4 address.
        port: port to listen on; 0 chooses a free port.
        name: the coordinator's name, for the logs of agents.
        authorities: addresses that agents may dial, each as `host:port` or a bare host (port
            443). If empty, the loopback names, `host` (unless it is a wildcard), and for each
            connection the address of this machine at which it arrived, with the bound port.
        api_keys: the clients' API keys. If None, every client has access, and `host` must be a
            loopback address.
        enrollment_codes: codes that admit an agent with any key; None for no codes.
        agent_keys: public keys that are admitted without a code; None for no list. If both this and
            `enrollment_codes` are None, every agent is admitted, and `host` must be a loopback
            address.
        deadline_s: timeout of a request, from its complete body on; each job of it is sent with the
            remaining time as its deadline.
        deadline_grace_s: additional seconds in which the agent's end of an overdue job may arrive.
        body_timeout_s: timeout of receiving a request body.
        stalled_client_s: seconds without progress after which a client that does not read its
            response is disconnected. It is well above the minute after which agents end the job of
            such a client with `slow_consumer`.
        handshake_timeout_s: timeout from an agent's open socket to `Welcome`.
        heartbeat_ms: interval of an agent's heartbeats; a link is closed when nothing arrives for
            three intervals.
        resume_ms: how long a detached session can be resumed; 0 disables resumption.
        window_bytes: the window of each stream.
        max_request_bytes: the largest request body.
        max_requests: concurrent requests with a complete body; additional requests receive 503.
        max_queued: requests that wait until an agent has room; additional requests receive 503.
        queue_s: the longest time that a request waits for room; then it receives 503.
        max_agents: connected agents; additional agents are rejected. Also the maximum number of
            detached sessions.
        max_attempts: the most agents that run one request, one after another. An agent that has no
            room for it does not count.
        max_price: the highest input or output price of a model that receives jobs, in US dollars
            per million tokens; None for no limit.
        max_requests_per_minute: requests of each API key in any minute, over the whole cluster;
            additional requests receive 429. None for no limit. Without `api_keys`, the limit is
            that of all clients together.
        max_tokens_per_minute: the same for input and output tokens, which count at the end of a
            request.
        max_connections: open connections of clients and agents; fewer if the limit of open files is
            lower. Additional connections are closed at once.
        max_unauthenticated: connections whose peer has neither sent a request with a valid key nor
            been admitted as an agent; for an additional one, the oldest is closed.
        max_unauthenticated_per_address: the same for the connections of one network address.
        trusted_proxies: addresses or networks of reverse proxies. Their `X-Forwarded-For` is
            believed, and their connections are not limited per address.
        keep_alive_s: how long a connection stays open between two requests. A proxy that reuses
            connections must close them earlier; 60 s is a common default there.
        max_held_request_bytes: bytes of request bodies in memory; a request that does not fit
            receives 503.
        drain_s: seconds that a stop waits for running requests.
        receipts: whether agents that support receipts send them, and whether they sign them.
        dialects: the dialects that agents may use besides `provider-agent.v1`.
        cluster: how to reach the other coordinators of the fleet; None for a single coordinator.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    name: str = "reference coordinator"
    authorities: tuple[str, ...] = ()
    api_keys: SecretSet | None = None
    enrollment_codes: SecretSet | None = None
    agent_keys: frozenset[bytes] | None = None
    deadline_s: float = 600.0
    deadline_grace_s: float = 5.0
    body_timeout_s: float = 60.0
    stalled_client_s: float = 120.0
    handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S
    heartbeat_ms: int = HEARTBEAT_MS
    resume_ms: int = RESUME_MS
    window_bytes: int = WINDOW_BYTES
    max_request_bytes: int = MAX_REQUEST_BYTES
    max_requests: int = 1024
    max_queued: int = 256
    queue_s: float = 30.0
    max_agents: int = 1024
    max_attempts: int = 3
    max_price: float | None = None
    max_requests_per_minute: int | None = None
    max_tokens_per_minute: int | None = None
    max_connections: int = 4096
    max_unauthenticated: int = 1024
    max_unauthenticated_per_address: int = 256
    trusted_proxies: tuple[str, ...] = ()
    keep_alive_s: float = 75.0
    max_held_request_bytes: int = 512 * MIB
    drain_s: float = 10.0
    receipts: ReceiptMode = ReceiptMode.OFF
    dialects: frozenset[ExtraDialect] = frozenset()
    cluster: ClusterSettings | None = None

    @property
    def features(self) -> list[str]:
        """The optional features of the protocol that the coordinator supports."""
        return [] if self.receipts is ReceiptMode.OFF else [FEATURE]

    @property
    def open_to_clients(self) -> bool:
        """Whether requests need no key."""
        return self.api_keys is None

    @property
    def open_to_agents(self) -> bool:
        """Whether every agent is admitted."""
        return self.enrollment_codes is None and self.agent_keys is None


def is_loopback(host: str) -> bool:
    """Whether `host` is a loopback address or the name `localhost`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_settings(settings: CoordinatorSettings) -> None:
    """Check the settings.

    Raises:
        SettingsError: a setting is wrong or unsafe.
    """
    if not is_loopback(settings.host):
        if settings.open_to_clients:
            raise SettingsError(
                f"host {settings.host} can be reached from other machines, but no API keys are "
                "configured; give --api-keys FILE or listen on 127.0.0.1"
            )
        if settings.open_to_agents:
            raise SettingsError(
                f"host {settings.host} can be reached from other machines, but every agent would "
                "be admitted; give --enrollment-codes FILE or --agent-keys FILE, or listen on "
                "127.0.0.1"
            )
    for name, secrets in (
        ("api_keys", settings.api_keys),
        ("enrollment_codes", settings.enrollment_codes),
        ("agent_keys", settings.agent_keys),
    ):
        if secrets is not None and not len(secrets):
            raise SettingsError(f"{name}: is configured, but contains no entry")
    _check_ranges(settings)
    _check_proxies(settings.trusted_proxies)
    for authority in settings.authorities:
        parse_authority(authority)
    if settings.cluster is not None:
        if settings.dialects:
            raise SettingsError(
                f"--dialect {min(settings.dialects)} does not work with --cluster: the jobs of its "
                "agents cannot move to another coordinator; give one of the two options"
            )
        check_cluster(settings.cluster)


def _check_ranges(settings: CoordinatorSettings) -> None:
    for name, (lowest, highest) in RANGES.items():
        value = getattr(settings, name)
        if value is not None and not lowest <= value <= highest:
            raise SettingsError(f"{name}: {value} is not between {lowest} and {highest}")
    if settings.max_held_request_bytes < settings.max_request_bytes:
        raise SettingsError(
            f"max_held_request_bytes: {settings.max_held_request_bytes} does not suffice for one "
            f"request of max_request_bytes ({settings.max_request_bytes})"
        )


def _check_proxies(proxies: tuple[str, ...]) -> None:
    for proxy in proxies:
        try:
            ipaddress.ip_network(proxy)
        except ValueError as error:
            raise SettingsError(
                f"trusted proxy {proxy!r}: expected an IP address, or a network such as 10.0.0.0/8"
            ) from error


def parse_authority(text: str) -> str:
    """Convert a configured address to the form that agents sign: `host:port`.

    Args:
        text: `host:port`, or a bare host, which means port 443.

    Raises:
        SettingsError: `text` has neither form.
    """
    try:
        if re.search(r"[/?#@]", text):
            raise ValueError("a URL, or part of one")
        parts = urlsplit(f"wss://{text}")
        host = parts.hostname or ""
        if not _HOST.fullmatch(host):
            raise ValueError(f"{host!r} is neither a host name nor an IP address")
        return canonical_authority(parts.scheme, host, parts.port)
    except ValueError as error:
        raise SettingsError(
            f"authority {text!r}: expected host:port, such as coordinator.example:443"
        ) from error


def accepted_authorities(settings: CoordinatorSettings, port: int) -> tuple[str, ...]:
    """Return the addresses that agents may dial on any connection, given the bound port."""
    if settings.authorities:
        return tuple(parse_authority(authority) for authority in settings.authorities)
    hosts = ["127.0.0.1", "localhost", "::1"]
    if settings.host not in hosts and not is_wildcard(settings.host):
        hosts.append(settings.host)
    return tuple(canonical_authority("ws", host, port) for host in hosts)


def listen_hosts(host: str) -> tuple[str, ...]:
    """Return the hosts to listen on, one socket each.

    A socket for both versions of IP is not used: IPv4 addresses of peers would be mapped to IPv6,
    where limits count all of them as one network.
    """
    return ("::", "0.0.0.0") if host.strip("[]") == "::" else (host,)  # noqa: S104


def is_wildcard(host: str) -> bool:
    """Whether listening on `host` means listening on every address of this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return not host
