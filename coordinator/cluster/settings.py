"""How a coordinator reaches the NATS servers of its cluster."""

import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from provider_agent.coordinator.cluster.credentials import read_credentials
from provider_agent.coordinator.cluster.tls_files import tls_context
from provider_agent.coordinator.exceptions import SettingsError

DEFAULT_PREFIX: Final = "provider-agent"

_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_WEBSOCKET: Final = frozenset({"ws", "wss"})
_SCHEMES: Final = _WEBSOCKET | {"nats", "tls"}

INTERVAL_S: Final = 2.0
"""The interval of snapshots. A coordinator that crashed is noticed after three of them; agents
that were connected to it dial again sooner."""


class ClusterSettings(Struct, frozen=True, kw_only=True):
    """The settings of a cluster; all of its coordinators have the same `prefix`.

    Attributes:
        urls: the NATS servers, such as `nats://host:4222` or `tls://user:password@host:4222`.
        prefix: the first tokens of every subject.
        credentials: a file with the JWT and the seed of a NATS user; None for none.
        ca_file: certificates of authorities that the servers' certificates are checked against;
            None for those of the system.
        interval_s: the interval of snapshots and of renewals of jobs.
    """

    urls: tuple[str, ...]
    prefix: str = DEFAULT_PREFIX
    credentials: Path | None = None
    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    interval_s: float = INTERVAL_S

    def __repr__(self) -> str:
        return f"<ClusterSettings servers={self.servers} prefix={self.prefix!r}>"

    @property
    def servers(self) -> list[str]:
        """The URLs without user and password, for logs."""
        return [without_user(url) for url in self.urls]


def without_user(url: str) -> str:
    """Return scheme, host and port of a URL, without user, password and token."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def check_cluster(settings: ClusterSettings) -> None:
    """Check the settings.

    Raises:
        SettingsError: a setting is wrong, or a file cannot be read; the text contains no password.
    """
    if not settings.urls:
        raise SettingsError("cluster: no URL of a NATS server is configured")
    schemes = {_scheme(url) in _WEBSOCKET for url in settings.urls}
    if len(schemes) > 1:
        raise SettingsError("cluster: WebSocket URLs cannot be mixed with others")
    if not _PREFIX.fullmatch(settings.prefix):
        raise SettingsError(
            f"cluster prefix {settings.prefix!r}: expected letters, digits, - and _, with dots "
            "between the parts"
        )
    if settings.credentials is not None:
        read_credentials(settings.credentials)
    if settings.key is not None and settings.certificate is None:
        raise SettingsError("--cluster-key needs --cluster-cert")
    tls_context(settings.ca_file, settings.certificate, settings.key)


def _scheme(url: str) -> str:
    """Return the scheme of a URL; raise without its text, which may contain a password."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in _SCHEMES and url.startswith(parts.scheme)  # in lower case
        if known and parts.hostname and parts.port != 0:
            return parts.scheme
    except ValueError:
        pass
    raise SettingsError(
        "cluster: expected a URL such as nats://nats.example:4222; the schemes are "
        f"{', '.join(sorted(_SCHEMES))}"
    )
