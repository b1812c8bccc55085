"""How a coordinator reaches the NATS servers of its cluster."""

from pathlib import Path
from typing import Final

from msgspec import Struct

DEFAULT_PREFIX: Final = "provider-agent"

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
    interval_s: float = INTERVAL_S

    def __repr__(self) -> str:
        return f"<ClusterSettings servers={len(self.urls)} prefix={self.prefix!r}>"
