"""Keeps what is known of all backends, while backends come and go.

Each has a `HealthMonitor` of its own. A backend that the operator removed or changed is kept until
its last job has ended.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from provider_agent.adapters.base import Backend, BackendError
from provider_agent.agent.backends.admission import AdmissionControl
from provider_agent.agent.backends.capabilities import FakeBackendPool
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.backends.health_monitor import BackendState, HealthMonitor
from provider_agent.agent.backends.routing import Route

CHECK_EVERY_S: Final = 60.0
"""Often enough that a model swap is noticed before many jobs fail on it."""

REMEMBERED_BACKENDS: Final = 64
"""Closed ones that can still be asked for: the end of a job may be told a moment after it left."""


class Discovery:
    """All backends, in the order of the configuration.

    Args:
        backends: those in use from the start; see `use`.
        on_change: called when a backend offers something different than before.
        interval_s: between two looks at a healthy backend.
        clock: monotonic, in seconds.
        uniform: random, in [0, 1).
    """

    def __init__(
        self,
        backends: Backends,
        on_change: Callable[[], None],
        *,
        interval_s: float = CHECK_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._watches: dict[str, HealthMonitor] = {}
        self._retired: list[HealthMonitor] = []
        self._on_change = on_change
        self._interval_s = interval_s
        self._clock = clock
        self._uniform = uniform
        self._first_round = asyncio.Event()
        self._news = asyncio.Event()
        """Set when `run` has a task to begin."""
        self._adopt(backends)

    @property
    def states(self) -> Sequence[BackendState]:
        """What the last looks found, in the order of the configuration."""
        return [watch.state for watch in self._watches.values()]

    @property
    def busy_ids(self) -> frozenset[str]:
        """The ids under which jobs run now; no other backend may have one of them."""
        return frozenset(watch.backend.id for watch in self._all() if watch.running)

    def running(self, backend_id: str) -> int:
        """Jobs on a backend now."""
        return self._find(backend_id).running

    def guard(self, backend_id: str) -> AdmissionControl:
        """The guard of a backend."""
        return self._find(backend_id).guard

    def serving(self) -> list[FakeBackendPool]:
        """Every model of every backend that is healthy and not taken out."""
        return [
            (watch.backend, model, watch.markup)
            for watch in self._watches.values()
            if not watch.guard.is_out
            for model in watch.state.models
        ]

    def routes(self, model_id: str) -> list[Route]:
        """The backends that offer a model now; see `BackendPool` of the jobs."""
        return [
            Route(
                backend_id=backend_id,
                order=order,
                native=model.native,
                operations=frozenset(model.operations),
                in_flight=watch.running,
                # One that may get no job now is as good as full.
                capacity=watch.backend.max_concurrent if watch.guard.has_room else 0,
                retry_after_s=watch.guard.retry_after_s,
            )
            for order, (backend_id, watch) in enumerate(self._watches.items())
            if not watch.guard.is_out
            for model in watch.state.models
            if model.model_id == model_id
        ]

    def backend(self, backend_id: str) -> Backend:
        """The backend of a route, or of a job that has just ended."""
        return self._find(backend_id).backend

    def job_started(self, backend_id: str) -> int:
        """A job goes to a backend; see `AdmissionControl.started`."""
        return self._find(backend_id).job_started()

    def job_ended(
        self, backend_id: str, number: int, error: BackendError | None, tokens: int
    ) -> None:
        """A job on a backend is over; see `AdmissionControl.ended`."""
        self._find(backend_id).job_ended(number, error, tokens)

    def job_stopped(self, backend_id: str, number: int) -> None:
        """A job on a backend was stopped from outside, which says nothing about the backend."""
        self._find(backend_id).job_stopped(number)

    # --- backends come and go --------------------------------------------------------------------

    def use(self, backends: Backends) -> None:
        """Use these backends from now on.

        An object that is in use already keeps its health and its guard. One that is not there gets
        no more jobs, and is closed when its last one has ended.

        Args:
            backends: in the order of the configuration; the id of a new one is not in `busy_ids`.
        """
        self._adopt(backends)
        self._on_change()

    def look_every(self, interval_s: float) -> None:
        """From now on look at healthy backends so often."""
        self._interval_s = interval_s
        for watch in self._watches.values():
            watch.look_every(interval_s)

    def _adopt(self, backends: Backends) -> None:
        old = {id(watch.backend): watch for watch in self._watches.values()}
        self._watches = {}
        for backend in backends.usable:
            watch = old.pop(id(backend), None) or self._new_watch(backend)
            watch.markup = backends.markups.get(backend.id)
            watch.guard.allow(backends.tokens_per_minute.get(backend.id))
            self._watches[backend.id] = watch
        for watch in old.values():
            watch.retire()
            self._retired.append(watch)
        self._forget()
        self._looked()
        self._news.set()

    def _new_watch(self, backend: Backend) -> HealthMonitor:
        return HealthMonitor(
            backend,
            AdmissionControl(backend.kind, None, self._clock),
            self._looked,
            self._on_change,
            interval_s=self._interval_s,
            uniform=self._uniform,
        )

    def _find(self, backend_id: str) -> HealthMonitor:
        """The one in use, else the last one that was.

        An id under which jobs run is given to no other backend, so it is theirs.
        """
        if backend_id in self._watches:
            return self._watches[backend_id]
        for watch in reversed(self._retired):
            if watch.backend.id == backend_id:
                return watch
        raise KeyError(backend_id)

    def _all(self) -> Iterator[HealthMonitor]:
        yield from self._retired
        yield from self._watches.values()

    def _forget(self) -> None:
        """Drop the oldest of those that nobody asks for any more."""
        closed = [watch for watch in self._retired if watch.closed]
        for watch in closed[:-REMEMBERED_BACKENDS]:
            self._retired.remove(watch)

    # --- life ------------------------------------------------------------------------------------

    async def check_all(self) -> None:
        """Look at every backend at once; what one says counts without waiting for others."""
        await asyncio.gather(*(watch.look() for watch in self._watches.values()))

    async def wait_for_first_round(self, at_most_s: float) -> None:
        """Return when every backend has answered or failed once, or when the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._first_round.wait()

    async def run(self) -> None:
        """Watch each of them by itself, also those that come later, until cancelled."""
        begun: set[HealthMonitor] = set()
        async with asyncio.TaskGroup() as group:
            while True:
                begun.intersection_update(self._all())
                for watch in self._all():
                    if watch not in begun:
                        group.create_task(watch.run(), name=f"watch {watch.backend.id}")
                        begun.add(watch)
                self._news.clear()
                await self._news.wait()

    async def close(self) -> None:
        """Close every backend that is open; for when `run` has ended and no job runs."""
        for watch in self._all():
            await watch.close()

    def _looked(self) -> None:
        if all(watch.looked_at is not None for watch in self._watches.values()):
            self._first_round.set()
