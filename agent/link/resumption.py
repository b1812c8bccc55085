"""What of a lost session can go on: what is offered again, for how long, and what is given up.

::

    none ──welcomed──▶ live ──lost──▶ waiting ──welcomed──▶ live
                                         │ resume_ms are over, or `give_up`
                                         ▼
                                       none: its jobs are cancelled and forgotten
"""

import asyncio
from collections.abc import Callable
from typing import Final

from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.protocol.frames import LiveJob, Welcome

MAX_RESUME_S: Final = 600.0
"""How long this agent keeps the jobs of a lost link at most, whatever a coordinator promises: they
hold memory and, until their windows are full, a machine."""


class Resumption:
    """The session as the agent remembers it between two links.

    Args:
        outbox: holds the jobs' streams.
        cancel: stops a job that nobody waits for any more; a plain call.
    """

    def __init__(self, outbox: Outbox, cancel: Callable[[bytes], None]) -> None:
        self._outbox = outbox
        self._cancel = cancel
        self._session_id: bytes | None = None
        self._resume_s = 0.0
        self._ends_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        session = self._session_id.hex() if self._session_id else "none"
        return f"<Resumption {session} waiting={self._ends_at is not None}>"

    def offer(self) -> tuple[bytes | None, list[LiveJob]]:
        """The session and the jobs to offer in the next `Hello`.

        They stay as they are until `welcomed` or `lost` is called: what a coordinator may take up
        must not expire meanwhile.
        """
        self._stop_timer()
        return self._session_id, self._outbox.live_jobs() if self._session_id else []

    def welcomed(self, welcome: Welcome) -> list[bytes]:
        """Go on with what the coordinator named, cancel the rest, which is returned.

        Raises:
            ProtocolViolation: it named an offset that was not offered.
        """
        orphans = self._outbox.resume(welcome.resumed)
        self._stop_timer()
        self._session_id = welcome.session_id
        self._resume_s = min(welcome.resume_ms / 1000, MAX_RESUME_S)
        self._ends_at = None
        for job_id in orphans:
            self._cancel(job_id)
        return orphans

    def lost(self) -> None:
        """The link, or an attempt at one, is over: the jobs go on and wait for the next one."""
        if self._session_id is None:
            return
        loop = asyncio.get_running_loop()
        if self._ends_at is None:
            self._ends_at = loop.time() + self._resume_s
        self._stop_timer()
        if self._ends_at <= loop.time():
            self.give_up()
        else:
            self._timer = loop.call_at(self._ends_at, self.give_up)

    def give_up(self) -> None:
        """Nobody will ask for the session's jobs: cancel and forget them."""
        self._stop_timer()
        self._session_id = None
        self._ends_at = None
        for job_id in self._outbox.resume({}):
            self._cancel(job_id)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
