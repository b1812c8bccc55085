"""Watches every backend: how it is, what it serves, how busy it is, and whether it keeps failing.

Each backend has a task of its own: it is looked at on a timer, at once after a failure, and sooner
than usual while it is down or loading. What changes is told to whoever advertises.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct, structs

from adapters.base import (
    Backend,
    BackendError,
    BackendHealth,
    BackendModel,
    BackendTimeout,
    ServerLoad,
)
from adapters.http_errors import describe, is_not_yet
from agent.capabilities import Serving
from agent.guard import Guard
from agent.routing import Route

log = logging.getLogger("provider_agent.discovery")

CHECK_EVERY_S: Final = 60.0
"""Often enough that a model swap is noticed before many jobs fail on it."""

LOADING_EVERY_S: Final = 2.0
"""A server that loads its model will be there soon, and should earn from then on."""

POKE_REST_S: Final = 2.0
"""A failing job has its backend looked at at once, but many failing jobs not without a pause."""

RETRY_CAP_S: Final = 60.0
"""The longest wait for a server that is down; the first ones are a second or two."""

LOAD_EVERY_S: Final = 10.0
"""How old a reported load may be: about one heartbeat."""

CHECK_TIMEOUT_S: Final = 60.0
"""For one backend's answers together; adapters have shorter clocks, those of third parties perhaps
none."""


class BackendState(Struct, frozen=True):
    """What the last look found out about one backend.

    Attributes:
        backend: which.
        health: whether jobs can be sent.
        models: what it offers; empty while it is not healthy.
        withheld: what it has and does not offer, each with its reason.
        capacity: jobs it takes at once; some servers tell it with their models.
        load: what the server says of its load; None when it does not.
    """

    backend: Backend
    health: BackendHealth
    models: tuple[BackendModel, ...] = ()
    withheld: tuple[BackendModel, ...] = ()
    capacity: int = 0
    load: ServerLoad | None = None


class _Watch:
    """One backend and what is known of it."""

    def __init__(self, backend: Backend, guard: Guard) -> None:
        self.state = BackendState(backend, BackendHealth(False, None, "not asked yet"))
        self.guard = guard
        self.failures = 0
        self.looked_at: float | None = None
        """When the last look ended, by the loop's clock."""
        self.poked = asyncio.Event()
        self.load_fails = False
        self.offered: tuple[object, ...] = ()
        """What was last told to be on offer, to notice a change."""


class Discovery:
    """Keeps what is known of the backends.

    Args:
        backends: in the order of the configuration.
        markups: by backend id.
        on_change: called when a backend offers something different than before.
        guards: by backend id; a backend without one is never taken out.
        in_flight: jobs running on a backend now.
        interval_s: between two looks at a healthy backend.
        uniform: random, in [0, 1).
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        markups: Mapping[str, float | None],
        on_change: Callable[[], None],
        *,
        guards: Mapping[str, Guard] | None = None,
        in_flight: Callable[[str], int] = lambda _: 0,
        interval_s: float = CHECK_EVERY_S,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        known = guards or {}
        self._watches = {
            backend.id: _Watch(
                backend, known.get(backend.id) or Guard(backend.kind, None, time.monotonic)
            )
            for backend in backends
        }
        self._markups = markups
        self._on_change = on_change
        self._in_flight = in_flight
        self._interval_s = interval_s
        self._uniform = uniform
        self._first_round = asyncio.Event()
        if not self._watches:
            self._first_round.set()

    @property
    def states(self) -> Sequence[BackendState]:
        """What the last looks found, in the order of the configuration."""
        return [watch.state for watch in self._watches.values()]

    def guard(self, backend_id: str) -> Guard:
        """The guard of a backend."""
        return self._watches[backend_id].guard

    def serving(self) -> list[Serving]:
        """Every model of every backend that is healthy and not taken out."""
        return [
            (watch.state.backend, model, self._markups.get(backend_id))
            for backend_id, watch in self._watches.items()
            if not watch.guard.is_out
            for model in watch.state.models
        ]

    def routes(self, model_id: str) -> list[Route]:
        """The backends that offer a model now; see `jobs.Served`."""
        return [
            Route(
                backend_id=backend_id,
                order=order,
                native=model.native,
                operations=frozenset(model.operations),
                in_flight=self._in_flight(backend_id),
                # One that may get no job now is as good as full.
                capacity=watch.state.backend.max_concurrent if watch.guard.has_room else 0,
                retry_after_s=watch.guard.retry_after_s,
            )
            for order, (backend_id, watch) in enumerate(self._watches.items())
            if not watch.guard.is_out
            for model in watch.state.models
            if model.model_id == model_id
        ]

    def backend(self, backend_id: str) -> Backend:
        """The backend of a route."""
        return self._watches[backend_id].state.backend

    def job_started(self, backend_id: str) -> int:
        """A job goes to a backend; see `Guard.started`."""
        return self._watches[backend_id].guard.started()

    def job_ended(
        self, backend_id: str, number: int, error: BackendError | None, tokens: int
    ) -> None:
        """A job on a backend is over; see `Guard.ended`."""
        watch = self._watches[backend_id]
        if watch.guard.ended(number, error, tokens):
            watch.poked.set()
        # At once, not after a look that a failing server may keep waiting.
        self._tell_change(watch)

    def job_stopped(self, backend_id: str, number: int) -> None:
        """A job on a backend was stopped from outside, which says nothing about the backend."""
        self._watches[backend_id].guard.dropped(number)

    async def check_all(self) -> None:
        """Look at every backend at once; what one says counts without waiting for others."""
        await asyncio.gather(*(self._check(watch) for watch in self._watches.values()))

    async def wait_for_first_round(self, at_most_s: float) -> None:
        """Return when every backend has answered or failed once, or when the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._first_round.wait()

    async def run(self) -> None:
        """Watch each of them by itself, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for backend_id, watch in self._watches.items():
                group.create_task(self._watch(watch), name=f"watch {backend_id}")

    async def _watch(self, watch: _Watch) -> None:
        loop = asyncio.get_running_loop()
        next_check = loop.time()
        while True:
            if watch.poked.is_set():
                await asyncio.sleep(_rest_s(watch, loop.time()))
            if watch.poked.is_set() or loop.time() >= next_check:
                await self._check(watch)
                next_check = loop.time() + self._patience_s(watch)
            await _read_load(watch)
            self._tell_change(watch)
            wait_s = min(next_check - loop.time(), LOAD_EVERY_S)
            if watch.guard.is_out:
                wait_s = min(wait_s, watch.guard.rest_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(wait_s, 0)):
                    await watch.poked.wait()

    def _patience_s(self, watch: _Watch) -> float:
        """How long until the next look."""
        if watch.state.health.reachable:
            return self._interval_s
        if watch.state.health.loading:
            return LOADING_EVERY_S
        # Half of it jitter, so that several agents beside one server do not ask in step.
        full = min(RETRY_CAP_S, 2.0 ** min(watch.failures, 10))
        return full * (0.5 + 0.5 * self._uniform())

    async def _check(self, watch: _Watch) -> None:
        before = watch.state
        watch.poked.clear()  # before the questions: what fails while they are asked is news
        now = await check_backend(before.backend)
        watch.looked_at = asyncio.get_running_loop().time()
        if all(one.looked_at is not None for one in self._watches.values()):
            self._first_round.set()
        if now.health.timed_out and before.models and self._in_flight(before.backend.id):
            # A server that is busy with jobs may have no thread left for questions (llama.cpp):
            # while its jobs go on it is not dead.
            return
        watch.failures = 0 if now.health.reachable else watch.failures + 1
        watch.state = now
        _log_change(before, now)
        await _read_load(watch)
        self._tell_change(watch)

    def _tell_change(self, watch: _Watch) -> None:
        state = watch.state
        offers = bool(state.models) and not watch.guard.is_out
        offered = (state.models, state.capacity) if offers else ()
        if offered != watch.offered:
            watch.offered = offered
            self._on_change()


async def _read_load(watch: _Watch) -> None:
    """Refresh what the server says of its load; a failure is the next look's to judge."""
    load: ServerLoad | None = None
    backend = watch.state.backend
    try:
        if watch.state.health.reachable:
            async with asyncio.timeout(LOAD_EVERY_S):
                load = await backend.load()
            watch.load_fails = False
    except (BackendError, TimeoutError):
        pass
    except Exception:
        # Said once and not every few seconds.
        if not watch.load_fails:
            log.exception("an adapter failed", extra={"fields": {"backend": backend.id}})
        watch.load_fails = True
    watch.state = structs.replace(watch.state, load=load)


def _rest_s(watch: _Watch, now: float) -> float:
    """How long until a failure may have the backend looked at again."""
    since_look_s = POKE_REST_S if watch.looked_at is None else now - watch.looked_at
    return max(0.0, POKE_REST_S - since_look_s)


async def check_backend(backend: Backend) -> BackendState:
    """Ask one backend how it is and what it serves; never raises for a server's fault."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            health = await backend.health()
            if not health.reachable:
                return BackendState(backend, health)
            models = await backend.list_models()
    except BackendError as error:
        timed_out = isinstance(error, BackendTimeout)
        loading = backend.native and is_not_yet(error)
        return BackendState(
            backend, BackendHealth(False, None, describe(error), loading, timed_out)
        )
    except TimeoutError:
        text = f"no answer to its health check within {CHECK_TIMEOUT_S:.0f} s"
        return BackendState(backend, BackendHealth(False, None, text, timed_out=True))
    except Exception:
        # An adapter of a third party must not take the agent down with it.
        log.exception("an adapter failed", extra={"fields": {"backend": backend.id}})
        return BackendState(backend, BackendHealth(False, None, "the adapter failed; see the log"))
    return BackendState(
        backend,
        health,
        tuple(model for model in models if not model.withheld),
        tuple(model for model in models if model.withheld),
        backend.max_concurrent,
    )


def _log_change(before: BackendState, now: BackendState) -> None:
    fields: dict[str, object] = {"backend": now.backend.id, "models": len(now.models)}
    if now.health.reachable and not before.health.reachable:
        log.info("backend is up", extra={"fields": fields})
    elif not now.health.reachable and before.health.last_error != now.health.last_error:
        fields["reason"] = now.health.last_error
        log.warning("backend is down", extra={"fields": fields})
    elif before.models != now.models:
        log.info("backend serves other models", extra={"fields": fields})
