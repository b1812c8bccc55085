"""Which operations a server speaks, where finding out is a burden: asked once per build."""

from collections.abc import Awaitable, Callable
from typing import Final

from protocol.formats import Operation

MAX_REMEMBERED: Final = 1024
"""More than any server has models; beyond it the oldest answer is forgotten."""


class RememberedOperations:
    """Asks once per build: a probe writes a line into the server's log, or does work there."""

    def __init__(self) -> None:
        self._known: dict[str, frozenset[Operation]] = {}

    def known(self, build: str) -> frozenset[Operation] | None:
        """What was found out about this build; None when it was not asked yet."""
        return self._known.get(build)

    async def get(
        self, build: str, probe: Callable[[], Awaitable[frozenset[Operation]]]
    ) -> frozenset[Operation]:
        """The operations of this build, from memory or from `probe`.

        Args:
            build: whatever changes when the answer may: a version, with the model.
            probe: asks the server; what it raises is raised here and nothing is remembered.
        """
        known = self._known.get(build)
        if known is None:
            known = self._known[build] = await probe()
            if len(self._known) > MAX_REMEMBERED:
                del self._known[next(iter(self._known))]
        return known
