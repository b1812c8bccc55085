"""Notifies systemd of readiness, status and liveness (sd_notify(3)); no-op without systemd.

The watchdog is fed from the event loop: systemd restarts an agent whose loop is blocked, but not
one that waits for its coordinator, because a restart would not help.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from provider_agent.agent.telemetry.status import StatusSnapshot

STATUS_EVERY_S: Final = 10.0
"""Interval of the status line without a watchdog."""

FEEDS_PER_TIMEOUT: Final = 3
"""Notifications per watchdog timeout; more than one, so that a late one causes no restart."""


class ServiceManager:
    """Client of systemd's notification socket, if systemd set one for this process.

    Args:
        environ: the environment variables; systemd sets `NOTIFY_SOCKET`.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # "@" marks an abstract socket (sd_notify(3)).
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = _watchdog_s(environ) if address else None

    def __repr__(self) -> str:
        return f"<ServiceManager {self._address!r} watchdog={self._watchdog_s}>"

    async def run(self, status: Callable[[], StatusSnapshot], changed: asyncio.Event) -> None:
        """Send readiness, status and watchdog notifications until cancelled.

        Returns at once without systemd.

        Args:
            status: returns the state of the agent.
            changed: set when the link, a pause or a drain has changed; then the status is sent at
                once. The number of jobs changes too often for that.
        """
        if not self._address:
            return
        every_s = (
            STATUS_EVERY_S if self._watchdog_s is None else self._watchdog_s / FEEDS_PER_TIMEOUT
        )
        self._notify("READY=1")
        stopping = False
        while True:
            changed.clear()
            state = status()
            if state.draining and not stopping:
                stopping = True
                self._notify("STOPPING=1")
            jobs = f"{state.in_flight} of {state.capacity} jobs"
            reason = state.availability.reason
            closed = "" if reason is None else f", {reason}"
            self._notify("WATCHDOG=1", f"STATUS=link {state.link}, {jobs}{closed}")
            with suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await changed.wait()

    def _notify(self, *states: str) -> None:
        # A failure of the socket must not stop the agent; systemd's watchdog detects it.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(states).encode(), self._address)


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """Return the watchdog timeout; None if it is not set, or is set for another process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return microseconds / 1e6 if microseconds > 0 else None
