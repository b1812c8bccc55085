"""Ends streams whose final event has arrived, but whose connection stays open.

Some servers never close a stream after `data: [DONE]`; their jobs would wait for the silence
timeout. A read does not search for the final event. Instead, one timer for all jobs examines the
last bytes of the silent streams.
"""

import asyncio
from typing import Final, Protocol

END_S: Final = 1.0
"""The longest time from the final event to the end of the job."""

_CHECK_S: Final = END_S / 2
"""Time between two checks, and time of silence before the first one."""


class RunningStream(Protocol):
    """The relay of a running job."""

    def end_if_terminated(self, quiet_since: float) -> None:
        """End the job if nothing was read since this loop time, and the last event is final."""


class StreamEnds:
    """Checks the relays of running jobs; without jobs, no timer runs."""

    def __init__(self) -> None:
        self._relays: set[RunningStream] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, relay: RunningStream) -> None:
        """Check a relay until `forget`."""
        self._relays.add(relay)
        if self._timer is None:
            self._schedule()

    def forget(self, relay: RunningStream) -> None:
        """Do not check a relay any more; ignore one that is not checked."""
        self._relays.discard(relay)
        if not self._relays and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_CHECK_S, self._check)

    def _check(self) -> None:
        self._schedule()
        quiet_since = asyncio.get_running_loop().time() - _CHECK_S
        for relay in tuple(self._relays):
            relay.end_if_terminated(quiet_since)
