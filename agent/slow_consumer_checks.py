"""Checks periodically for jobs whose consumer has stopped reading, and ends them."""

import asyncio
from collections.abc import Callable
from typing import Final

from provider_agent.agent.free_memory import FreeMemory
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.jobs.running import Jobs
from provider_agent.agent.jobs.slow_consumers import SlowConsumers
from provider_agent.agent.link.uplink import Uplink
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)

SLOW_CONSUMER_CHECKS: Final = 4
"""The number of checks for slow consumers within `limits.slow_consumer_s`."""


class SlowConsumerChecks:
    """Ends the jobs of slow consumers, which would hold memory and a backend forever.

    Args:
        uplink: the link to the coordinator.
        jobs: the running jobs.
        outbox: the jobs' responses and ends.
        limit_s: returns the current `limits.slow_consumer_s`.
    """

    def __init__(
        self, uplink: Uplink, jobs: Jobs, outbox: Outbox, limit_s: Callable[[], float]
    ) -> None:
        self._uplink = uplink
        self._jobs = jobs
        self._outbox = outbox
        self._limit_s = limit_s
        self._slow_consumers = SlowConsumers()
        self._free_memory = FreeMemory()

    def welcomed(self) -> None:
        """Begin anew on a new link: the time without a link does not count."""
        self._slow_consumers.reset()

    async def run(self) -> None:
        """Check while there is a link, until cancelled."""
        while True:
            await self._uplink.connected.wait()
            limit_s = self._limit_s()
            streams, active_at = self._outbox.streams, self._uplink.last_activity_at
            try:
                for stream in self._slow_consumers.stalled(streams, active_at, limit_s):
                    self._jobs.end_stalled(stream)
                if not streams:
                    self._free_memory.return_if_large()
            except Exception:
                log.exception("check for slow consumers failed")
            await asyncio.sleep(limit_s / SLOW_CONSUMER_CHECKS)
