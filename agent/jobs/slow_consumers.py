"""Detects jobs whose consumer has stalled: a client that does not read its response. Pure.

The streams are compared every few seconds, not at every chunk, so that the hot path pays nothing.
"""

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from provider_agent.protocol.stream import SendStream


class _Position(Struct, frozen=True):
    """The position of a blocked stream, and since when it has not changed."""

    acked: int
    sent: int
    ended: bool
    since: float


class SlowConsumers:
    """Remembers the position of each blocked stream at the last check.

    A stream is blocked when its window is full or its end is not acknowledged. While its bytes
    still move towards the coordinator, the link is slow, not the consumer.
    """

    def __init__(self) -> None:
        self._positions: dict[bytes, _Position] = {}

    def stalled(
        self, streams: Iterable[SendStream], heard_at: float, limit_s: float
    ) -> list[SendStream]:
        """The blocked streams that have not moved for `limit_s`.

        Args:
            streams: of all jobs.
            heard_at: when a message last arrived from the coordinator, in seconds of any clock.
                Not the time now: a failed link that is not detected yet is no consumer's fault.
            limit_s: how long a blocked stream may stay at its position.
        """
        positions: dict[bytes, _Position] = {}
        stalled = []
        for stream in streams:
            if not stream.blocked:
                continue
            position = _Position(stream.acked, stream.sent, stream.end is not None, heard_at)
            before = self._positions.get(stream.job_id)
            if before is not None and replace(before, since=heard_at) == position:
                position = before
            positions[stream.job_id] = position
            if heard_at - position.since >= limit_s:
                stalled.append(stream)
        self._positions = positions
        return stalled

    def reset(self) -> None:
        """Forget all positions: without a link no acknowledgement can arrive."""
        self._positions.clear()
