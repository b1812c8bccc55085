"""Caches the result of probing which operations a server supports."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

from provider_agent.protocol.formats import Operation

MAX_ENTRIES: Final = 1024
"""Limit of entries; a server may have one per model. Beyond it, the oldest entry is removed."""

UNVERSIONED_TTL_S: Final = 3600.0
"""Lifetime in seconds of an entry if the server does not report its version: after an update
of the server, the entry is out of date until it expires."""


class ProbeCache:
    """The supported operations of each build of a server.

    They are cached because probes cost the server work and fill its log.

    Args:
        ttl_s: lifetime of an entry in seconds; with the default, infinite, the `build` of each call
            must include the server's version.
        clock: monotonic, in seconds.
    """

    def __init__(
        self, *, ttl_s: float = float("inf"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: dict[str, tuple[float, frozenset[Operation]]] = {}

    def cached(self, build: str) -> frozenset[Operation] | None:
        """Return the operations of a build; None if it was not probed or the entry has expired."""
        probed_at, operations = self._entries.get(build, (0.0, None))
        return operations if self._clock() - probed_at < self._ttl_s else None

    async def get(
        self, build: str, probe: Callable[[], Awaitable[frozenset[Operation]]]
    ) -> frozenset[Operation]:
        """Return the operations of a build, from the cache or from `probe`.

        Args:
            build: a key that changes when the operations may change: the server's version and
                model.
            probe: probes the server. Its exceptions propagate and are not cached.
        """
        operations = self.cached(build)
        if operations is None:
            operations = await probe()
            self._entries.pop(build, None)
            self._entries[build] = self._clock(), operations
            if len(self._entries) > MAX_ENTRIES:
                del self._entries[next(iter(self._entries))]
        return operations
