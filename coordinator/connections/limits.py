"""Which connections may be open: in total, and of peers that have not authenticated yet.

A peer authenticates with its first request that has a valid API key, or as an agent with `Welcome`.
Until then its connection may be closed to make room for a new one, so that idle connections cannot
exclude anyone: a peer that wants to use its connection authenticates within milliseconds.
"""

from collections.abc import Iterable
from typing import Final, Generic, TypeVar

from msgspec import Struct

RESERVED_FILES: Final = 64
"""Open files that connections must leave free: log, listening sockets, event loop, libraries."""

ConnectionT = TypeVar("ConnectionT")


class ConnectionCaps(Struct, frozen=True):
    """The most connections.

    Attributes:
        total: open connections; additional ones are refused.
        unauthenticated: connections of peers that have not authenticated; for an additional one the
            oldest is closed.
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


class ConnectionLimits(Generic[ConnectionT]):
    """The open connections; decides which one is closed for a new one.

    Args:
        caps: the most connections.

    Attributes:
        evicted: connections that were closed to make room.
        refused: connections that were refused.
    """

    def __init__(self, caps: ConnectionCaps) -> None:
        self.caps = caps
        self.evicted = 0
        self.refused = 0
        self._open: set[ConnectionT] = set()
        # Insertion order is age. The values are the addresses; None is exempt from the cap of one.
        self._unauthenticated: dict[ConnectionT, str | None] = {}
        self._by_address: dict[str, dict[ConnectionT, None]] = {}

    def __repr__(self) -> str:
        return (
            f"<ConnectionLimits open={len(self._open)} "
            f"unauthenticated={len(self._unauthenticated)} {self.caps}>"
        )

    def __len__(self) -> int:
        return len(self._open)

    @property
    def unauthenticated(self) -> int:
        """How many open connections have not authenticated."""
        return len(self._unauthenticated)

    def add(self, connection: ConnectionT, address: str | None) -> ConnectionT | None:
        """Add a new connection.

        Args:
            connection: the new connection.
            address: the peer's address; None to exempt it from the cap of one address.

        Returns:
            The connection that has to be closed, which is no longer counted: an older one, the new
                one itself if there is no room for it, or None.
        """
        same_address = {} if address is None else self._by_address.get(address, {})
        oldest: ConnectionT | None = None
        if len(same_address) >= self.caps.unauthenticated_per_address:
            oldest = _first(same_address)
        elif len(self._unauthenticated) >= self.caps.unauthenticated:
            oldest = _first(self._unauthenticated)
        elif len(self._open) >= self.caps.total:
            oldest = _first(self._unauthenticated)
            if oldest is None:
                self.refused += 1
                return connection
        if oldest is not None:
            self.evicted += 1
            self.remove(oldest)
        self._open.add(connection)
        self._unauthenticated[connection] = address
        if address is not None:
            self._by_address.setdefault(address, {})[connection] = None
        return oldest

    def authenticated(self, connection: ConnectionT) -> None:
        """Count a connection only in the total from now on; does nothing if that is done."""
        address = self._unauthenticated.pop(connection, None)
        if address is not None:
            same_address = self._by_address[address]
            del same_address[connection]
            if not same_address:
                del self._by_address[address]

    def remove(self, connection: ConnectionT) -> None:
        """Forget a closed connection; does nothing if it is not known."""
        self.authenticated(connection)
        self._open.discard(connection)


def _first(connections: Iterable[ConnectionT]) -> ConnectionT | None:
    return next(iter(connections), None)
