"""Lost sessions that wait for their agent to come back."""

import asyncio
import logging
from collections.abc import Iterator

from msgspec import Struct

from provider_agent.coordinator.sessions.detached_session import DetachedSession
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)


class _Entry(Struct, frozen=True):
    """One parked session."""

    session: DetachedSession
    timer: asyncio.TimerHandle


class DetachedSessions:
    """Keeps each lost session for some time.

    A key has at most two places, one for the session that got its new jobs and one for a retired
    one: an agent that comes and goes pushes out nobody else's session.

    Args:
        capacity: how many are kept; one more pushes out the oldest.
        keep_s: for how long; 0: not at all.
    """

    def __init__(self, capacity: int, keep_s: float) -> None:
        self._capacity = capacity
        self._keep_s = keep_s
        self._seats: dict[tuple[bytes, bool], _Entry] = {}

    def __repr__(self) -> str:
        return f"<DetachedSessions {list(self)}>"

    def __len__(self) -> int:
        return len(self._seats)

    def __iter__(self) -> Iterator[DetachedSession]:
        return iter([seat.session for seat in self._seats.values()])

    def add(self, session: DetachedSession) -> None:
        """Keep it, or end it at once when nothing is kept."""
        if self._keep_s <= 0:
            session.end()
            return
        place = (session.public_key, session.retired)
        self._end(place)
        while len(self._seats) >= self._capacity:
            self._end(next(iter(self._seats)))
        timer = asyncio.get_running_loop().call_later(self._keep_s, self._expire, place)
        self._seats[place] = _Entry(session, timer)

    def claim(self, public_key: bytes, session_id: bytes) -> DetachedSession | None:
        """Give the session to the agent that came back; None: there is none of this name."""
        for place in ((public_key, False), (public_key, True)):
            seat = self._seats.get(place)
            if seat is not None and seat.session.session_id == session_id:
                self._leave(place)
                return seat.session
        return None

    def holds(self, public_key: bytes, session_id: bytes | None = None) -> bool:
        """Whether a session of this key waits; if named, that very one."""
        seats = (self._seats.get((public_key, retired)) for retired in (False, True))
        found = [seat.session.session_id for seat in seats if seat is not None]
        return bool(found) if session_id is None else session_id in found

    def end_unresumable(self, public_key: bytes, instance_id: str) -> None:
        """A process of this key began anew: nobody comes back for what it had before.

        Another process that was retired may still come back for its own.
        """
        self._end((public_key, False))
        retired = self._seats.get((public_key, True))
        if retired is not None and retired.session.instance_id == instance_id:
            self._end((public_key, True))

    def end_all(self) -> None:
        """Keep nothing any longer."""
        for place in list(self._seats):
            self._end(place)

    def _expire(self, place: tuple[bytes, bool]) -> None:
        session = self._seats[place].session
        fields = {"session": session.session_id.hex(), "jobs": len(session.jobs)}
        level = logging.WARNING if session.jobs else logging.INFO
        log.log(level, "agent did not come back for its session", **fields)
        self._end(place)

    def _end(self, place: tuple[bytes, bool]) -> None:
        session = self._leave(place)
        if session is not None:
            session.end()

    def _leave(self, place: tuple[bytes, bool]) -> DetachedSession | None:
        seat = self._seats.pop(place, None)
        if seat is None:
            return None
        seat.timer.cancel()
        return seat.session
