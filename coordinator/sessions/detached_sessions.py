"""Stores detached sessions until they are resumed, replaced or evicted, or expire."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from typing import Final

from msgspec import Struct

from provider_agent.coordinator.reason import Reason
from provider_agent.coordinator.sessions.detached_session import DetachedSession
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)

_Key = tuple[bytes, bool]
"""The agent's public key, and whether the session is retired: another process with the same key has
replaced the session's process, as in a rolling update."""

LOST_AFTER_S: Final = 2.0
"""After this time without a link, requests without output are sent to another agent. An agent whose
link broke usually returns within a second; a second job costs its operator money."""


class _Entry(Struct, frozen=True):
    """One stored session, the timer of its expiry, and that of `LOST_AFTER_S`."""

    session: DetachedSession
    expiry: asyncio.TimerHandle
    lost: asyncio.TimerHandle


class DetachedSessions:
    """Stores each detached session for a limited time.

    A public key has at most two entries: its current session and a retired one. This stops an agent
    that reconnects often from evicting the sessions of other agents. Sessions without jobs are
    evicted first, so that many agents without jobs cannot end the jobs of others.

    Args:
        capacity: the maximum number of stored sessions; adding another one ends the oldest without
            jobs, or the oldest if all have jobs.
        keep_s: seconds that a session is stored; 0 ends it at once.
    """

    def __init__(self, capacity: int, keep_s: float) -> None:
        self._capacity = capacity
        self._keep_s = keep_s
        self._entries: dict[_Key, _Entry] = {}

    def __repr__(self) -> str:
        return f"<DetachedSessions {list(self)}>"

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[DetachedSession]:
        return iter([entry.session for entry in self._entries.values()])

    def add(self, session: DetachedSession) -> None:
        """Store a session; end an older one with the same public key and the same `retired`."""
        if self._keep_s <= 0:
            session.end()
            return
        key = (session.public_key, session.retired)
        self._end(key)
        while len(self._entries) >= self._capacity:
            idle = (other for other, entry in self._entries.items() if not entry.session.jobs)
            self._end(next(idle, None) or next(iter(self._entries)))
        loop = asyncio.get_running_loop()
        expiry = loop.call_later(self._keep_s, self._expire, key)
        lost = loop.call_later(LOST_AFTER_S, session.report_lost)
        self._entries[key] = _Entry(session, expiry, lost)

    def claim(self, public_key: bytes, session_id: bytes) -> DetachedSession | None:
        """Remove and return the session to resume; None if it is not stored."""
        for key in ((public_key, False), (public_key, True)):
            entry = self._entries.get(key)
            if entry is not None and entry.session.session_id == session_id:
                self._remove(key)
                return entry.session
        return None

    def claim_with_job(
        self, public_key: bytes, job_ids: Collection[bytes]
    ) -> DetachedSession | None:
        """Remove and return a session that has one of the jobs; None if none is stored."""
        for key in ((public_key, False), (public_key, True)):
            entry = self._entries.get(key)
            if entry is not None and not entry.session.jobs.keys().isdisjoint(job_ids):
                self._remove(key)
                return entry.session
        return None

    def holds(self, public_key: bytes, session_id: bytes | None = None) -> bool:
        """Whether the session `session_id` of this key is stored; without an id, whether any is."""
        entries = (self._entries.get((public_key, retired)) for retired in (False, True))
        stored = [entry.session.session_id for entry in entries if entry is not None]
        return bool(stored) if session_id is None else session_id in stored

    def end_replaced(self, public_key: bytes, instance_id: str) -> None:
        """End the stored sessions that a new session of an agent process makes obsolete.

        A retired session of another process is kept, because that process may still resume it.
        """
        self._end((public_key, False))
        retired = self._entries.get((public_key, True))
        if retired is not None and retired.session.instance_id == instance_id:
            self._end((public_key, True))

    def end_current(self, public_key: bytes, is_older: Callable[[str], bool]) -> None:
        """End the session of a key that is not retired, if its process is an older one."""
        entry = self._entries.get((public_key, False))
        if entry is not None and is_older(entry.session.instance_id):
            self._end((public_key, False))

    def end_all(self) -> None:
        """End every stored session, because the coordinator stops."""
        for key in list(self._entries):
            self._end(key, Reason.COORDINATOR_STOPPING)

    def _expire(self, key: _Key) -> None:
        session = self._entries[key].session
        level, session_id = logging.WARNING if session.jobs else logging.INFO, session.session_id
        log.log(level, "detached session expired", session=session_id.hex(), jobs=len(session.jobs))
        self._end(key)

    def _end(self, key: _Key, reason: Reason = Reason.PROVIDER_LOST) -> None:
        session = self._remove(key)
        if session is not None:
            session.end(reason)

    def _remove(self, key: _Key) -> DetachedSession | None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        entry.expiry.cancel()
        entry.lost.cancel()
        return entry.session
