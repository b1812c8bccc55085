"""Which operations a server speaks, where finding out is a burden: asked once per build."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

from provider_agent.protocol.formats import Operation

MAX_REMEMBERED: Final = 1024
"""More than any server has models; beyond it the oldest answer is forgotten."""

UNKNOWN_BUILD_S: Final = 3600.0
"""How long an answer holds for a server that does not tell its version: it may be updated."""


class ProbeCache:
    """Asks once per build: a probe writes a line into the server's log, or does work there.

    Args:
        holds_s: how long an answer holds; infinity where the build names a version.
        clock: monotonic, in seconds.
    """

    def __init__(
        self, *, holds_s: float = float("inf"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._holds_s = holds_s
        self._clock = clock
        self._known: dict[str, tuple[float, frozenset[Operation]]] = {}

    def known(self, build: str) -> frozenset[Operation] | None:
        """What was found out about this build; None when it was not asked yet, or too long ago."""
        asked_at, operations = self._known.get(build, (0.0, None))
        return operations if self._clock() - asked_at < self._holds_s else None

    async def get(
        self, build: str, probe: Callable[[], Awaitable[frozenset[Operation]]]
    ) -> frozenset[Operation]:
        """The operations of this build, from memory or from `probe`.

        Args:
            build: whatever changes when the answer may: a version, with the model.
            probe: asks the server; what it raises is raised here and nothing is remembered.
        """
        known = self.known(build)
        if known is None:
            known = await probe()
            self._known.pop(build, None)
            self._known[build] = self._clock(), known
            if len(self._known) > MAX_REMEMBERED:
                del self._known[next(iter(self._known))]
        return known
