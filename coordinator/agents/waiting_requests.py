"""The queue of requests that no agent has room for. No I/O and no clock; ADR 17 explains it."""

import heapq
from collections.abc import Callable, Iterator

from msgspec import Struct

from provider_agent.protocol.formats import Operation


class Wanted(Struct, frozen=True):
    """What a request needs from an agent.

    Attributes:
        number: its place in the order of arrival, which it keeps when an agent refuses its job.
        model_id: the requested model.
        operation: the requested operation.
        tried: the public keys of agents that must not receive it again.
        wants_stream: whether the response must be an event stream.
    """

    number: int
    model_id: str
    operation: Operation
    tried: frozenset[bytes] = frozenset()
    wants_stream: bool = True

    @property
    def group(self) -> "_Group":
        """Requests of one group need the same of an agent."""
        return self.model_id, self.operation, self.wants_stream


_Group = tuple[str, Operation, bool]


class WaitingRequests:
    """A bounded queue, in order of arrival.

    When an agent has room, the oldest request that it can run is sent. A request that no agent can
    run now does not hold up requests for other models.

    Args:
        capacity: the most waiting requests.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._groups: dict[_Group, dict[int, Wanted]] = {}
        """The waiting requests of each group, by and in the order of `number`."""
        self._size = 0

    def __repr__(self) -> str:
        return f"<WaitingRequests {self._size}/{self._capacity}>"

    def __len__(self) -> int:
        return self._size

    def count(self, model_id: str) -> int:
        """Return how many requests wait for a model."""
        return sum(len(group) for (model, *_), group in self._groups.items() if model == model_id)

    def add(self, wanted: Wanted) -> bool:
        """Add a request at its place; return False if the queue is full."""
        if self._size >= self._capacity:
            return False
        group = self._groups.setdefault(wanted.group, {})
        is_last = not group or next(reversed(group)) < wanted.number
        group[wanted.number] = wanted
        if not is_last:  # an agent has refused its job
            waiting = sorted(group.items())
            group.clear()
            group.update(waiting)
        self._size += 1
        return True

    def remove(self, wanted: Wanted) -> None:
        """Remove a request; does nothing if it does not wait any more."""
        key = wanted.group
        group = self._groups.get(key)
        if group is not None and group.pop(wanted.number, None) is not None:
            self._size -= 1
            if not group:
                del self._groups[key]

    def dispatch(self, place: Callable[[Wanted], bool]) -> None:
        """Offer the requests to `place` in order of arrival; remove those that it accepts.

        After `place` has refused a request that every agent may run, later requests of the same
        group are not offered: they cannot run either.

        Args:
            place: sends a request to an agent, or fails it; returns False if it must wait.
        """
        heads: list[tuple[int, _Group, Iterator[int]]] = []
        for key, group in self._groups.items():
            numbers = iter(list(group))
            heads.append((next(numbers), key, numbers))
        heapq.heapify(heads)
        while heads:
            number, key, numbers = heads[0]
            wanted = self._groups.get(key, {}).get(number)
            is_placed = wanted is None or place(wanted)
            if wanted is not None and is_placed:
                self.remove(wanted)
            is_blocked = wanted is not None and not is_placed and not wanted.tried
            following = None if is_blocked else next(numbers, None)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (following, key, numbers))
