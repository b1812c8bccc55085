"""Sends `Capabilities` after each `Welcome`, and when the offered models change."""

import asyncio
from collections.abc import Callable
from typing import Final

from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.event_log import EventLogger
from provider_agent.protocol.frames import Capabilities

log = EventLogger(__name__)

DEBOUNCE_S: Final = 0.25
"""Seconds from a change to the frame that reports it. The frame also covers the changes in between:
often several follow each other, as when a machine starts."""


class Advertiser:
    """Advertises the agent's models to the coordinator.

    Args:
        outbox: sends the frames.
        connected: set while there is a link.
        capabilities: builds the frame with a revision.
    """

    def __init__(
        self,
        outbox: Outbox,
        connected: asyncio.Event,
        capabilities: Callable[[int], Capabilities],
    ) -> None:
        self._outbox = outbox
        self._connected = connected
        self._capabilities = capabilities
        self._revision = 0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Advertiser revision={self._revision} pending={self.pending}>"

    @property
    def pending(self) -> bool:
        """Whether a change waits to be sent."""
        return self._timer is not None

    def schedule(self) -> None:
        """Send the capabilities after `DEBOUNCE_S`, because the offered models have changed."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DEBOUNCE_S, self.send)

    def send(self) -> None:
        """Send the current capabilities now, if there is a link. Each `Welcome` calls this."""
        self.cancel()
        if self._connected.is_set():
            self._revision += 1
            try:
                frame = self._capabilities(self._revision)
            except Exception:
                # A defect here must not end the link, which also carries running jobs.
                log.exception("capabilities failed")
                return
            self._outbox.put(frame)

    def cancel(self) -> None:
        """Cancel what `schedule` has scheduled."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
