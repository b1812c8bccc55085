"""Keeps a session and its jobs after a lost link, until the session is resumed or expires.

::

    no session ──welcomed──▶ live ──lost──▶ detached ──welcomed──▶ live
                                               │ resume_ms have passed, or `abandon`
                                               ▼
                                            no session: its jobs are cancelled and forgotten
"""

import asyncio
from collections.abc import Callable
from typing import Final

from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.protocol.frames import LiveJob, Welcome

MAX_RESUME_S: Final = 600.0
"""The longest time that a detached session is kept, whatever `resume_ms` a coordinator grants: the
session's jobs use memory and capacity of backends."""


class Resumption:
    """The agent's side of a session, across links.

    Args:
        outbox: holds the jobs' streams.
        cancel: cancels a job that is not resumed; returns at once.
    """

    def __init__(self, outbox: Outbox, cancel: Callable[[bytes], None]) -> None:
        self._outbox = outbox
        self._cancel = cancel
        self._session_id: bytes | None = None
        self._resume_s = 0.0
        self._expires_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        session = self._session_id.hex() if self._session_id else "none"
        return f"<Resumption {session} detached={self._expires_at is not None}>"

    def offer(self) -> tuple[bytes | None, list[LiveJob]]:
        """Return the session and the live jobs for the next `Hello`.

        The session does not expire before the next call of `welcomed` or `lost`: the coordinator
        may be resuming it.
        """
        self._stop_timer()
        return self._session_id, self._outbox.live_jobs() if self._session_id else []

    def welcomed(self, welcome: Welcome) -> list[bytes]:
        """Continue the jobs that the coordinator resumes, and forget those whose end it has.

        All other jobs are cancelled.

        Returns:
            The ids of the cancelled jobs.

        Raises:
            ProtocolViolation: the coordinator named an offset that was not offered.
        """
        delivered = [job.job_id for job in welcome.resumed if job.ended]
        self._outbox.forget(delivered)
        continued = {job.job_id: job.offset for job in welcome.resumed if not job.ended}
        orphans = self._outbox.resume(continued)
        self._stop_timer()
        self._session_id = welcome.session_id
        self._resume_s = min(welcome.resume_ms / 1000, MAX_RESUME_S)
        self._expires_at = None
        for job_id in orphans:
            self._cancel(job_id)
        return orphans

    def lost(self) -> None:
        """Keep the session until it expires, because its link has ended.

        Also called after each failed attempt to open a link: `offer` has stopped the timer.
        """
        if self._session_id is None:
            return
        loop = asyncio.get_running_loop()
        if self._expires_at is None:
            self._expires_at = loop.time() + self._resume_s
        self._stop_timer()
        if self._expires_at <= loop.time():
            self.abandon()
        else:
            self._timer = loop.call_at(self._expires_at, self.abandon)

    def abandon(self) -> None:
        """Forget the session, and cancel its jobs."""
        self._stop_timer()
        self._session_id = None
        self._expires_at = None
        for job_id in self._outbox.resume({}):
            self._cancel(job_id)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
