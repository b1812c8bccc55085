"""Tells systemd how the agent stands (sd_notify(3)); elsewhere, nothing.

The watchdog is fed from the event loop: an agent whose loop stands still is started again, one that
waits for its coordinator is not, because that would not bring it back.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from provider_agent.agent.telemetry.status import StatusSnapshot

STATUS_EVERY_S: Final = 10.0
"""Without a watchdog: how often the status line is looked at. About one heartbeat."""

FEEDS: Final = 3
"""How often the watchdog is fed within its time: one may be late, and one more."""


class ServiceManager:
    """The socket of systemd, when it started this process and wants to hear of it.

    Args:
        environ: the environment, in which systemd says so.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # An abstract socket, in the notation of the documentation.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = _watchdog_s(environ) if address else None

    def __repr__(self) -> str:
        return f"<ServiceManager {self._address!r} watchdog={self._watchdog_s}>"

    async def run(self, status: Callable[[], StatusSnapshot]) -> None:
        """Say that the agent runs, how it is, and that its loop turns, until cancelled."""
        if not self._address:
            return
        every_s = STATUS_EVERY_S if self._watchdog_s is None else self._watchdog_s / FEEDS
        self._tell("READY=1")
        stopping = False
        while True:
            state = status()
            if state.draining and not stopping:
                stopping = True
                self._tell("STOPPING=1")
            jobs = f"{state.in_flight} of {state.capacity} jobs"
            self._tell("WATCHDOG=1", f"STATUS=link {state.link}, {jobs}")
            await asyncio.sleep(every_s)

    def _tell(self, *states: str) -> None:
        # Whatever is wrong with that socket must not stop the agent; systemd notices by itself.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
            speaker.setblocking(False)
            speaker.sendto("\n".join(states).encode(), self._address)


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """The watchdog's time; None: there is none, or it is for another process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return microseconds / 1e6 if microseconds > 0 else None
