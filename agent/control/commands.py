"""Pauses and resumes the agent or a backend, and says in one sentence what that changes."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from provider_agent.agent.availability.availability import Pause, time_text
from provider_agent.agent.availability.hours import AGENT, ServingHours
from provider_agent.agent.availability.status import AvailabilityStatus, availability_status
from provider_agent.agent.config.errors import did_you_mean
from provider_agent.agent.control.pause_store import PauseStore

MAX_PAUSE_S: Final = 366 * 24 * 3600
"""The longest pause with an end."""


class Command(Struct, frozen=True, forbid_unknown_fields=True):
    """A command of the operator.

    Attributes:
        action: what to do.
        backend: the id or the kind of a backend; None: the whole agent.
        for_s: seconds that a pause lasts; None: until `resume`.
    """

    action: Literal["pause", "resume"]
    backend: str | None = None
    for_s: Annotated[float, Meta(gt=0, le=MAX_PAUSE_S)] | None = None


class Reply(Struct, frozen=True):
    """What the command has changed.

    Attributes:
        ok: whether the command was carried out.
        message: for the operator.
        backend: the id of the backend; None: the whole agent.
        stored: whether the state survives a restart.
        availability: of the agent or the backend now; None if the command was refused.
    """

    ok: bool
    message: str
    backend: str | None = None
    stored: bool = True
    availability: AvailabilityStatus | None = None


class Commands:
    """Carries out commands.

    Args:
        hours: when the agent and its backends may serve.
        store: keeps the pauses.
        backends: returns the kinds of the backends by id.
        in_flight: returns the number of running jobs.
        stopping: returns whether the agent stops.
        wall_clock: POSIX time in seconds.
    """

    def __init__(
        self,
        hours: ServingHours,
        store: PauseStore,
        *,
        backends: Callable[[], Mapping[str, str]],
        in_flight: Callable[[], int],
        stopping: Callable[[], bool],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._hours = hours
        self._store = store
        self._backends = backends
        self._in_flight = in_flight
        self._stopping = stopping
        self._wall_clock = wall_clock
        self._lock = asyncio.Lock()

    async def carry_out(self, command: Command) -> Reply:
        """Carry out one command after the other."""
        async with self._lock:
            if self._stopping():
                return Reply(False, "the agent is stopping")
            target = AGENT
            if command.backend is not None:
                found = self._find(command.backend)
                if found is None:
                    hint = did_you_mean(command.backend, self._backends())
                    return Reply(False, f'the agent has no backend "{command.backend}"; {hint}')
                target = found
            return await self._apply(command, target)

    async def _apply(self, command: Command, target: str) -> Reply:
        before = self._hours.of(target)
        now = self._wall_clock()
        pauses = {one: pause for one, pause in self._hours.pauses.items() if pause.covers(now)}
        if command.action == "pause":
            pauses[target] = Pause(None if command.for_s is None else now + command.for_s)
        else:
            pauses.pop(target, None)
        # In a thread: a slow disk must not delay running streams.
        problem = await asyncio.to_thread(self._store.save, pauses)
        self._hours.pauses = pauses
        self._hours.check()
        paused_before = before.pause is not None
        changed = command.action == "pause" or paused_before
        message = self._result(command, target, paused_before=paused_before)
        if problem and changed:
            message += f"; this lasts until the next restart of the agent: {problem}"
        return Reply(
            True,
            message,
            target or None,
            stored=not problem,
            availability=availability_status(self._hours, target),
        )

    def _result(self, command: Command, target: str, *, paused_before: bool) -> str:
        name = target or "the agent"
        state, zone = self._hours.of(target), self._hours.zone(target)
        if state.pause is not None:
            until = state.pause.until
            end = "until `resume`" if until is None else f"until {time_text(until, zone)}"
            text = f"{name} is paused {end}"
            if paused_before:
                return f"{text}; it was paused before"
            jobs = self._in_flight()
            if jobs and not target:
                return f"{text}; {jobs} running job{'s finish' if jobs > 1 else ' finishes'} first"
            return text
        text = f"{name} is no longer paused" if paused_before else f"{name} was not paused"
        if not target and (still := self._paused_backends()):
            text += f"; still paused: {', '.join(still)}: `provider-agent resume {still[0]}`"
        if not state.open:
            return f"{text}, but {state.reason(zone)}"
        if target and not self._hours.of().open:
            return f"{text}, but the agent is {self._hours.of().reason(self._hours.zone())}"
        return text if command.action == "resume" else f"{text}: its end has passed"

    def _paused_backends(self) -> list[str]:
        """Return the ids of the backends that a pause of their own keeps from serving."""
        return [one for one in self._backends() if self._hours.of(one).pause is not None]

    def _find(self, name: str) -> str | None:
        """Return the id of the backend with this id, or the only one of this kind."""
        known = self._backends()
        if name in known:
            return name
        of_kind = [backend_id for backend_id, kind in known.items() if kind == name]
        return of_kind[0] if len(of_kind) == 1 else None
