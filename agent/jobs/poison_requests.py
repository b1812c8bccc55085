"""Requests that were running on servers when these died. No I/O; the clock is an argument.

A *poison request* crashes every server that runs it. Without a memory, failover and the retries of
its client would send it to one server after the other.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from msgspec import Struct

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
        self.log_message = (
            f"{MAX_DEATHS} servers died while they ran this request; it is not tried again for "
            f"{REMEMBERED_S / 60:.0f} minutes"
        )
        super().__init__(self.log_message)


class _Deaths(Struct):
    """The deaths during one request.

    Attributes:
        count: their number.
        latest_at: when the latest was recorded.
        by_backend: the value of `PoisonRequests.recorded` after the latest death of each backend.
    """

    count: int = 0
    latest_at: float = 0.0
    by_backend: dict[str, int] = {}


class PoisonRequests:
    """The requests that were running when a server died, by `request_key`.

    Args:
        clock: returns monotonic seconds.

    Attributes:
        recorded: the number of deaths recorded so far, of all requests.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.recorded = 0
        self._clock = clock
        self._deaths: OrderedDict[int, _Deaths] = OrderedDict()
        """The deaths during each request; the request with the latest death is last."""

    def __repr__(self) -> str:
        return f"<PoisonRequests remembered={len(self._deaths)}>"

    def add_death(self, key: int, backend_id: str, recorded_before: int) -> None:
        """Record that a server died while it ran this request.

        One death that ends several jobs with the same request counts once. Otherwise a restart by
        the operator during three such jobs would make their request a poison request.

        Args:
            key: the request.
            backend_id: the server.
            recorded_before: the value of `recorded` when the job started there.
        """
        deaths = self._deaths.get(key) or _Deaths()
        if recorded_before < deaths.by_backend.get(backend_id, 0):
            return
        self._deaths[key] = deaths
        self._deaths.move_to_end(key)
        self.recorded += 1
        deaths.by_backend[backend_id] = self.recorded
        deaths.count += 1
        deaths.latest_at = self._clock()
        if len(self._deaths) > MAX_REMEMBERED:
            self._deaths.popitem(last=False)

    def check(self, key: int) -> None:
        """Raise an error if the request must not be sent to a server.

        Raises:
            PoisonRequest: it was running when `MAX_DEATHS` servers died.
        """
        self._forget_old()
        deaths = self._deaths.get(key)
        if deaths is not None and deaths.count >= MAX_DEATHS:
            raise PoisonRequest

    def _forget_old(self) -> None:
        oldest = self._clock() - REMEMBERED_S
        while self._deaths and next(iter(self._deaths.values())).latest_at < oldest:
            self._deaths.popitem(last=False)


def request_key(request: bytes) -> int:
    """Return a hash of the length, beginning and end of a request; valid in this process only."""
    return hash((len(request), request[:_HASHED_BYTES], request[-_HASHED_BYTES:]))
