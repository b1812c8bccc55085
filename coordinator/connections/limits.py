"""Which connections may be open: in total, and of peers that have not authenticated yet.

A peer authenticates with its first request that has a valid API key, or as an agent with `Welcome`.
Until then its connection may be closed to make room for a new one, so that idle connections cannot
exclude anyone. A peer that wants to use its connection authenticates within milliseconds, or within
`GRACE_S` if it opens a thousand at once, as a proxy may after a restart.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Final, Generic, TypeVar

from msgspec import Struct

from provider_agent.protocol.limits import KIB, MIB, MIN_MESSAGE_TO_COORDINATOR_BYTES

RESERVED_FILES: Final = 64
"""Open files that connections must leave free: log, listening sockets, event loop, libraries."""

GRACE_S: Final = 1.0
"""While the total allows it, younger connections are not closed for new ones."""

FREE_BYTES: Final = 64 * KIB
"""Bytes that every connection may hold before its peer has authenticated: far more than the headers
of a request, or the `Hello` of an agent with a thousand jobs."""

MAX_BYTES: Final = MIN_MESSAGE_TO_COORDINATOR_BYTES + 64 * KIB
"""The most: an agent's largest message before `Welcome`, and frame headers and pings around it."""

MAX_EXTRA_BYTES: Final = 256 * KIB
"""The most bytes beside the body of a request that a connection may hold after its peer has
authenticated. The headers and up to 64 KiB of the next request count too: aiohttp reads them before
it calls the handler."""

SHARED_BYTES: Final = 64 * MIB
"""More than `FREE_BYTES` is allowed only while all these connections together hold less."""

ConnectionT = TypeVar("ConnectionT")


class ConnectionCaps(Struct, frozen=True):
    """The most connections.

    Attributes:
        total: open connections; additional ones are refused.
        unauthenticated: connections of peers that have not authenticated; for an additional one the
            oldest are closed.
        unauthenticated_per_address: the same for the connections of one network address.
    """

    total: int
    unauthenticated: int
    unauthenticated_per_address: int

    def within(self, open_files: int) -> "ConnectionCaps":
        """Return the caps that leave room for other files under the limit of open files."""
        total = max(1, min(self.total, open_files - RESERVED_FILES))
        return ConnectionCaps(
            total, min(self.unauthenticated, max(1, total // 2)), self.unauthenticated_per_address
        )


class _Entry(Struct):
    """A connection whose peer has not authenticated.

    Attributes:
        address: the peer's address; None if it is exempt from the cap of one address.
        opened_at: when it was opened.
        held_bytes: received bytes that may still be in memory.
    """

    address: str | None
    opened_at: float
    held_bytes: int = 0


class ConnectionLimits(Generic[ConnectionT]):
    """The open connections; decides which one is closed for a new one.

    Args:
        caps: the most connections.
        extra_bytes: the most bytes beside the bodies of requests that connections of authenticated
            peers hold together; a connection with at most `FREE_BYTES` of them is not counted.

    Attributes:
        evicted: connections that were closed to make room.
        refused: connections that were refused.
    """

    def __init__(self, caps: ConnectionCaps, extra_bytes: int = SHARED_BYTES) -> None:
        self.caps = caps
        self._max_extra_bytes = extra_bytes
        self._extra: dict[ConnectionT, int] = {}
        self._extra_bytes = 0
        self.evicted = 0
        self.refused = 0
        self._open: set[ConnectionT] = set()
        # Insertion order is age.
        self._unauthenticated: dict[ConnectionT, _Entry] = {}
        self._by_address: dict[str, dict[ConnectionT, _Entry]] = {}
        self._held_bytes = 0

    def __repr__(self) -> str:
        return (
            f"<ConnectionLimits open={len(self._open)} "
            f"unauthenticated={len(self._unauthenticated)} {self.caps}>"
        )

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[ConnectionT]:
        return iter(list(self._open))

    @property
    def unauthenticated(self) -> int:
        """How many open connections have not authenticated."""
        return len(self._unauthenticated)

    def add(
        self, connection: ConnectionT, address: str | None, now: float
    ) -> Iterable[ConnectionT]:
        """Add a new connection.

        Args:
            connection: the new connection.
            address: the peer's address; None to exempt it from the cap of one address.
            now: the time, in seconds of any clock.

        Returns:
            The connections that have to be closed, which are no longer counted: older ones, or only
                the new one if there is no room for it.
        """
        entry = _Entry(address, now)
        self._open.add(connection)
        self._unauthenticated[connection] = entry
        same_address = {connection: entry}
        if address is not None:
            same_address = self._by_address.setdefault(address, {})
            same_address[connection] = entry
        to_close = [
            *self._evict(same_address, self.caps.unauthenticated_per_address, now - GRACE_S),
            *self._evict(self._unauthenticated, self.caps.unauthenticated, now - GRACE_S),
        ]
        if len(self._open) > self.caps.total:
            oldest = next(iter(self._unauthenticated))
            self.remove(oldest)
            to_close.append(oldest)
        if connection in to_close:
            self.refused += 1
        else:
            self.evicted += len(to_close)
        return to_close

    def _evict(
        self, connections: dict[ConnectionT, _Entry], cap: int, opened_until: float
    ) -> list[ConnectionT]:
        """Remove and return the oldest connections above a cap that opened by `opened_until`."""
        excess = itertools.islice(connections.items(), max(0, len(connections) - cap))
        old = [connection for connection, entry in excess if entry.opened_at <= opened_until]
        for connection in old:
            self.remove(connection)
        return old

    def may_hold(self, connection: ConnectionT, size: int) -> bool:
        """Count received bytes that stay in memory; return False if they are too many.

        Bytes of peers that have authenticated are not counted.
        """
        entry = self._unauthenticated.get(connection)
        if entry is None:
            return True
        entry.held_bytes += size
        self._held_bytes += size
        if entry.held_bytes <= FREE_BYTES:
            return True
        return entry.held_bytes <= MAX_BYTES and self._held_bytes <= SHARED_BYTES

    def may_hold_extra(self, connection: ConnectionT, size: int) -> bool:
        """Whether a connection may hold `size` bytes beside its request's body from now on."""
        self._extra_bytes -= self._extra.pop(connection, 0)
        if size <= FREE_BYTES:
            return True
        self._extra[connection] = size
        self._extra_bytes += size
        return size <= MAX_EXTRA_BYTES and self._extra_bytes <= self._max_extra_bytes

    def authenticated(self, connection: ConnectionT) -> None:
        """Count a connection only in the total from now on; does nothing if that is done."""
        entry = self._unauthenticated.pop(connection, None)
        if entry is not None:
            self._held_bytes -= entry.held_bytes
        if entry is not None and entry.address is not None:
            same_address = self._by_address[entry.address]
            del same_address[connection]
            if not same_address:
                del self._by_address[entry.address]

    def remove(self, connection: ConnectionT) -> None:
        """Forget a closed connection; does nothing if it is not known."""
        self.authenticated(connection)
        self.may_hold_extra(connection, 0)
        self._open.discard(connection)
