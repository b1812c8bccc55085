"""Sends the agent's load to the coordinator, as often as the coordinator wants it."""

import asyncio
from contextlib import suppress

from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.telemetry.reports import Reports
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)


class Heartbeats:
    """Sends a heartbeat after each `Welcome`, and then in the coordinator's interval.

    Args:
        outbox: sends the frames.
        connected: set while there is a link.
        reports: builds the frame.
    """

    def __init__(self, outbox: Outbox, connected: asyncio.Event, reports: Reports) -> None:
        self._outbox = outbox
        self._connected = connected
        self._reports = reports
        self._interval_s = 0.0
        self._new_link = asyncio.Event()

    def welcomed(self, interval_s: float) -> None:
        """Use the interval of a new link, beginning now."""
        self._interval_s = interval_s
        self._new_link.set()

    async def run(self) -> None:
        """Send heartbeats until cancelled."""
        while True:
            await self._connected.wait()
            self._new_link.clear()
            try:
                self._outbox.put(self._reports.heartbeat())
            except Exception:
                log.exception("heartbeat failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._new_link.wait()
