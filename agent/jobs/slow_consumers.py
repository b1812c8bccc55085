"""Detects jobs whose consumer has stalled: a client that does not read its response. No I/O.

The streams are compared every few seconds and not at every chunk, to keep relaying fast.
"""

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from provider_agent.protocol.send_stream import SendStream


class _Position(Struct, frozen=True):
    """The position of a blocked stream, and the time `since` which it has not changed."""

    acked: int
    sent: int
    ended: bool
    since: float


class SlowConsumers:
    """Remembers the position of each blocked stream at the last check.

    A stream is blocked when more than half of its window is not acknowledged, or its end is not.
    While its bytes are still being sent or acknowledged, the link is slow, not the consumer.
    """

    def __init__(self) -> None:
        self._positions: dict[bytes, _Position] = {}

    def stalled(
        self, streams: Iterable[SendStream], heard_at: float, limit_s: float
    ) -> list[SendStream]:
        """Return the blocked streams whose position has not changed for `limit_s`.

        Args:
            streams: the streams of all jobs.
            heard_at: the time of the coordinator's last message or pong, in seconds of any clock.
                It is used instead of the current time, so that silence of a failed link
                does not count against consumers.
            limit_s: seconds that a blocked stream may stay at its position.
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
