"""Requests that were running on servers when these died. No I/O; the clock is an argument.

A *poison request* crashes every server that runs it. Without a memory, failover and the retries of
its client would send it to one server after the other.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from provider_agent.adapters.base import BackendError
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.limits import KIB

MAX_DEATHS: Final = 3
"""A request that was running when this many servers died is not sent to another server."""

REMEMBERED_S: Final = 600.0
"""How long a request is remembered after the last death."""

MAX_REMEMBERED: Final = 1024
"""The most requests that are remembered; the oldest are dropped first."""

_HASHED_BYTES: Final = 64 * KIB
"""Hashing all of a request of 16 MiB would block the event loop for milliseconds."""


class PoisonRequest(BackendError):
    """The request was running on `MAX_DEATHS` servers when these died.

    It counts as the client's error, so that no other provider receives it.
    """

    code = ErrorCode.BAD_REQUEST

    def __init__(self) -> None:
        super().__init__(
            f"{MAX_DEATHS} servers died while they ran this request; it is not tried again for "
            f"{REMEMBERED_S / 60:.0f} minutes"
        )


class PoisonRequests:
    """The requests that were running when a server died, by `request_key`.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._deaths: OrderedDict[int, tuple[int, float]] = OrderedDict()
        """The number of deaths and the time of the last one; the latest death is last."""

    def __repr__(self) -> str:
        return f"<PoisonRequests remembered={len(self._deaths)}>"

    def add_death(self, key: int) -> None:
        """Record that a server died while it ran this request."""
        deaths, _ = self._deaths.pop(key, (0, 0.0))
        self._deaths[key] = deaths + 1, self._clock()
        if len(self._deaths) > MAX_REMEMBERED:
            self._deaths.popitem(last=False)

    def check(self, key: int) -> None:
        """Return if the request may be sent to a server.

        Raises:
            PoisonRequest: it was running when `MAX_DEATHS` servers died.
        """
        self._forget_old()
        if self._deaths.get(key, (0, 0.0))[0] >= MAX_DEATHS:
            raise PoisonRequest

    def _forget_old(self) -> None:
        oldest = self._clock() - REMEMBERED_S
        while self._deaths and next(iter(self._deaths.values()))[1] < oldest:
            self._deaths.popitem(last=False)


def request_key(request: bytes) -> int:
    """Return a hash of the length, beginning and end of a request; valid in this process only."""
    return hash((len(request), request[:_HASHED_BYTES], request[-_HASHED_BYTES:]))
