"""Watches when the agent and each backend may serve.

The clock is read at least every `RECHECK_S` seconds: the system's clock may be set, and a machine
that was suspended continues in the middle of a wait.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import tzinfo
from types import MappingProxyType
from typing import Final, NamedTuple

from provider_agent.agent.availability.availability import (
    Availability,
    Pause,
    availability,
    iso_time,
)
from provider_agent.agent.availability.schedule import Schedule
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)

RECHECK_S: Final = 15.0
"""The longest time between two looks at the clock."""

AGENT: Final = ""
"""The target of a pause of the whole agent; any other target is the id of a backend."""


_ALWAYS: Final = Schedule()

_KEPT_S: Final = 24 * 3600.0
"""The longest time for which a state without a known end is not computed again."""


class _Computed(NamedTuple):
    """An availability and what it was computed from.

    It is computed only when it may have changed: a week of windows in local time takes
    milliseconds, for each backend, in which no stream runs.
    """

    schedule: Schedule
    pause: Pause | None
    at: float
    state: Availability

    def holds(self, schedule: Schedule, pause: Pause | None, now: float) -> bool:
        """Return whether the state would be the same."""
        changes_at = self.state.changes_at
        until = self.at + _KEPT_S if changes_at is None else changes_at
        same = schedule is self.schedule and pause == self.pause
        return same and self.at <= now < until


class ServingHours:
    """When the agent and its backends may serve, by their schedules and pauses.

    Args:
        schedule: of the whole agent.
        backends: the schedules of backends, by backend id; those without one are missing.
        pauses: the pauses by target.
        on_backends: called with the ids of the backends that may not serve, when they change.
        on_change: called when the availability of the agent or a backend has changed.
        wall_clock: POSIX time in seconds.

    Attributes:
        pauses: the pauses by target, `AGENT` or a backend id; call `check` after a change.
        opened: set while the agent may serve.
        closed: set while it may not.
    """

    def __init__(
        self,
        schedule: Schedule,
        backends: Mapping[str, Schedule] = MappingProxyType({}),
        pauses: Mapping[str, Pause] = MappingProxyType({}),
        *,
        on_backends: Callable[[frozenset[str]], None],
        on_change: Callable[[], None] = lambda: None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.pauses = dict(pauses)
        self.opened = asyncio.Event()
        self.closed = asyncio.Event()
        self._schedule = schedule
        self._backends = dict(backends)
        self._on_backends = on_backends
        self._on_change = on_change
        self._wall_clock = wall_clock
        self._computed: dict[str, _Computed] = {}
        self._states: dict[str, Availability] = {}
        """The availability of the agent and of backends, by target, at the last `check`."""
        self._suspended: frozenset[str] = frozenset()
        self._changed = asyncio.Event()
        self.opened.set()

    def __repr__(self) -> str:
        closed = sorted(target or "agent" for target in self._states if not self.of(target).open)
        return f"<ServingHours closed={closed}>"

    def of(self, target: str = AGENT) -> Availability:
        """Return the availability of the agent or a backend at the last `check`."""
        return self._states.get(target, Availability())

    def zone(self, target: str = AGENT) -> tzinfo | None:
        """Return the time zone in which to show times; None: the machine's own."""
        schedule = self._backends.get(target, self._schedule) if target else self._schedule
        return schedule.zone if schedule.windows else None

    def opens_at(self, target: str = AGENT) -> str | None:
        """Return when serving is allowed again, as ISO 8601; None: now, or not known."""
        return iso_time(self.of(target).opens_at, self.zone(target))

    def replace(self, schedule: Schedule, backends: Mapping[str, Schedule]) -> None:
        """Replace the schedules after a reload."""
        self._schedule, self._backends = schedule, dict(backends)
        self.check()

    async def run(self) -> None:
        """Notice every change, until cancelled."""
        while True:
            self.check()
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._wait_s()):
                    await self._changed.wait()

    def check(self) -> None:
        """Read the clock, log and report what has changed."""
        now = self._wall_clock()
        before = self._states
        targets = {AGENT, *self._backends, *self.pauses}
        self._computed = {target: self._compute(target, now) for target in targets}
        self._states = {target: one.state for target, one in self._computed.items()}
        for target in sorted({*before, *self._states}):
            self._log_change(target, before.get(target, Availability()))
        if self.of().open:
            self.closed.clear()
            self.opened.set()
        else:
            self.opened.clear()
            self.closed.set()
        suspended = frozenset(
            target for target, state in self._states.items() if target and not state.open
        )
        if suspended != self._suspended:
            self._suspended = suspended
            self._on_backends(suspended)
        if self._states != before:
            self._on_change()
        self._changed.set()

    def _compute(self, target: str, now: float) -> _Computed:
        schedule = self._backends.get(target, _ALWAYS) if target else self._schedule
        pause = self.pauses.get(target)
        last = self._computed.get(target)
        if last is not None and last.holds(schedule, pause, now):
            return last
        return _Computed(schedule, pause, now, availability(schedule, pause, now))

    def _wait_s(self) -> float:
        changes = (state.changes_at for state in self._states.values())
        next_change = min((at for at in changes if at is not None), default=None)
        if next_change is None:
            return RECHECK_S
        return min(max(next_change - self._wall_clock(), 0.0), RECHECK_S)

    def _log_change(self, target: str, before: Availability) -> None:
        state = self.of(target)
        fields: dict[str, object] = {"backend": target} if target else {}
        if state.open and not before.open:
            log.info("backend serves again" if target else "agent serves again", **fields)
        elif not state.open and state.reason(None) != before.reason(None):
            reason = state.reason(self.zone(target))
            fields |= {"reason": reason, "opens_at": self.opens_at(target)}
            log.info("backend does not serve" if target else "agent does not serve", **fields)
