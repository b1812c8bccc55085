"""Connects the agent while it may serve; otherwise drains and disconnects.

::

    waiting ──opened──▶ linked ──closed──▶ draining ──▶ disconnected ──▶ waiting
                          │                   │
                          └── every address failed permanently ──▶ returned
"""

import asyncio
from collections.abc import Callable

from provider_agent.agent.availability.hours import ServingHours
from provider_agent.agent.jobs.drain import drain
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.jobs.running import Jobs
from provider_agent.agent.link.uplink import Uplink
from provider_agent.event_log import EventLogger
from provider_agent.protocol.field_values import whole_milliseconds
from provider_agent.protocol.frames import Draining

log = EventLogger(__name__)


class ServingLink:
    """Runs the uplink while the agent may serve.

    A drain that has begun continues if the agent may serve again meanwhile: the protocol has no
    frame that takes `Draining` back. The agent then connects again at once.

    Args:
        uplink: the link to the coordinator.
        jobs: the running jobs.
        outbox: the jobs' responses and ends.
        hours: when the agent may serve.
        drain_timeout_s: returns the seconds that running jobs have to finish.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        uplink: Uplink,
        jobs: Jobs,
        outbox: Outbox,
        hours: ServingHours,
        drain_timeout_s: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._uplink = uplink
        self._jobs = jobs
        self._outbox = outbox
        self._hours = hours
        self._drain_timeout_s = drain_timeout_s
        self._clock = clock
        self._drain_ends_at: float | None = None
        self._stopping = False
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<ServingLink {self._uplink!r} drain_ends_at={self._drain_ends_at}>"

    async def run(self) -> None:
        """Serve in the serving hours; returns when every address has failed permanently."""
        while True:
            await self._hours.opened.wait()
            if not await self._run_until_closed():
                return
            self._uplink.disconnected()
            self._drain_ends_at = None
            log.info(
                "disconnected", reason=self._hours.of().reason(self._hours.zone()) or "resumed"
            )
            self._jobs.set_accepting(accepting=not self._stopping)

    def announce_stop(self, limit_s: float) -> None:
        """Announce that the agent stops within `limit_s`; the caller drains the jobs."""
        self._stopping = True
        if self._closing is not None:
            self._closing.cancel()
        self._begin_drain(limit_s)

    def announce_draining(self) -> None:
        """While draining, send the remaining time; each new link needs it again."""
        if self._drain_ends_at is not None:
            left_s = self._drain_ends_at - self._clock()
            self._outbox.put(Draining(whole_milliseconds(left_s)))

    async def _run_until_closed(self) -> bool:
        """Return whether the serving hours ended the link, and not the coordinator."""
        link = asyncio.create_task(self._uplink.run(), name="uplink")
        closing = self._closing = asyncio.create_task(self._drain_when_closed(), name="closing")
        try:
            await asyncio.wait({link, closing}, return_when=asyncio.FIRST_COMPLETED)
            if closing.cancelled():
                await link
            if link.done():
                link.result()
                return False
            closing.result()
            return True
        finally:
            self._closing = None
            link.cancel()
            closing.cancel()
            await asyncio.gather(link, closing, return_exceptions=True)

    async def _drain_when_closed(self) -> None:
        await self._hours.closed.wait()
        limit_s = self._drain_timeout_s()
        self._begin_drain(limit_s)
        await drain(self._jobs, self._outbox, limit_s)

    def _begin_drain(self, limit_s: float) -> None:
        self._drain_ends_at = self._clock() + limit_s
        self.announce_draining()
