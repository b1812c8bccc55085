"""Which jobs wait for a consumer that takes nothing. Pure.

Looked at now and then, not at every chunk: the hot path pays nothing for it.
"""

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from provider_agent.protocol.stream import SendStream


class _Mark(Struct, frozen=True):
    """Where a waiting stream stood, and since when."""

    acked: int
    sent: int
    ended: bool
    since: float


class SlowConsumers:
    """Remembers where each waiting stream stood at the last look.

    A stream waits when its window is full or when its end is not acknowledged. One whose bytes
    still move towards the coordinator is on a slow link, and not one with a slow consumer.
    """

    def __init__(self) -> None:
        self._marks: dict[bytes, _Mark] = {}

    def stalled(
        self, streams: Iterable[SendStream], heard_at: float, limit_s: float
    ) -> list[SendStream]:
        """Those that have not moved for `limit_s`.

        Args:
            streams: all there are.
            heard_at: when the coordinator last showed that it is there, in seconds of any clock.
                Not the time now: on a link that has died unnoticed no consumer is to blame.
            limit_s: how long a stream may stand still.
        """
        marks: dict[bytes, _Mark] = {}
        stalled = []
        for stream in streams:
            if not stream.blocked:
                continue
            mark = _Mark(stream.acked, stream.sent, stream.end is not None, heard_at)
            before = self._marks.get(stream.job_id)
            if before is not None and replace(before, since=heard_at) == mark:
                mark = before
            marks[stream.job_id] = mark
            if heard_at - mark.since >= limit_s:
                stalled.append(stream)
        self._marks = marks
        return stalled

    def reset(self) -> None:
        """The link is gone: nobody can acknowledge anything, which is no consumer's fault."""
        self._marks.clear()
