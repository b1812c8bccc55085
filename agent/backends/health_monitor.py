"""Watches one backend: how it is, what it serves, how busy it is, and whether it keeps failing.

It is looked at on a timer, at once after a failure, and sooner than usual while it is down or
loading. A backend that the operator has removed or changed is retired: it is looked at no more, its
jobs end in peace, and it is closed when the last of them has.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from msgspec import Struct, structs

from provider_agent.adapters.base import (
    Backend,
    BackendError,
    BackendHealth,
    BackendModel,
    BackendTimeout,
    ServerLoad,
)
from provider_agent.adapters.responses.http_errors import describe, is_not_yet
from provider_agent.agent.backends.admission import AdmissionControl
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)

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


class HealthMonitor:
    """One backend and what is known of it.

    Args:
        backend: whom to watch; closed by `close`.
        guard: what keeps jobs from it beside its health.
        on_look: called after every look.
        on_change: called when it offers something different than before.
        interval_s: between two looks while it is healthy.
        uniform: random, in [0, 1).

    Attributes:
        markup: on the upstream's prices, for a passthrough.
        looked_at: when the last look ended, by the loop's clock.
        running: jobs on it now.
        retired: whether it gets no more jobs.
    """

    def __init__(
        self,
        backend: Backend,
        guard: AdmissionControl,
        on_look: Callable[[], None],
        on_change: Callable[[], None],
        *,
        interval_s: float,
        uniform: Callable[[], float],
    ) -> None:
        self.backend = backend
        self.guard = guard
        self.state = BackendState(backend, BackendHealth(False, None, "not asked yet"))
        self.markup: float | None = None
        self.looked_at: float | None = None
        self.running = 0
        self.retired = False
        self.closed = False
        self._on_look = on_look
        self._on_change = on_change
        self._interval_s = interval_s
        self._uniform = uniform
        self._failures = 0
        self._poked = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._load_fails = False
        self._offered: tuple[object, ...] = ()
        """What was last told to be on offer, to notice a change."""

    def __repr__(self) -> str:
        how = "retired" if self.retired else "up" if self.state.health.reachable else "down"
        return f"<HealthMonitor {self.backend.id} {how} running={self.running} {self.guard!r}>"

    # --- jobs ------------------------------------------------------------------------------------

    def job_started(self) -> int:
        """A job goes to it; see `AdmissionControl.started`."""
        self.running += 1
        self._idle.clear()
        return self.guard.started()

    def job_ended(self, number: int, error: BackendError | None, tokens: int) -> None:
        """A job on it is over; see `AdmissionControl.ended`."""
        if self.guard.ended(number, error, tokens):
            self._poked.set()
        self._left()
        # At once, not after a look that a failing server may keep waiting.
        self._tell_change()

    def job_stopped(self, number: int) -> None:
        """A job on it was stopped from outside, which says nothing about it."""
        self.guard.dropped(number)
        self._left()

    def _left(self) -> None:
        self.running -= 1
        if not self.running:
            self._idle.set()

    # --- life ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at it until it is retired; then see its jobs through, and close it.

        When cancelled, it stays open for `close`.
        """
        loop = asyncio.get_running_loop()
        next_look = loop.time()
        while not self.retired:
            if self._poked.is_set():
                await asyncio.sleep(self._rest_s(loop.time()))
            if self._poked.is_set() or loop.time() >= next_look:
                await self.look()
                next_look = loop.time() + self._patience_s()
            await self._read_load()
            self._tell_change()
            wait_s = min(next_look - loop.time(), LOAD_EVERY_S)
            if self.guard.is_out:
                wait_s = min(wait_s, self.guard.rest_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(wait_s, 0)):
                    await self._poked.wait()
        await self._idle.wait()
        await self.close()

    def retire(self) -> None:
        """It gets no more jobs; `run` closes it when those that it has are over."""
        self.retired = True
        self._poked.set()

    def look_every(self, interval_s: float) -> None:
        """From now on look at it so often, beginning now."""
        if interval_s != self._interval_s:
            self._interval_s = interval_s
            self._poked.set()

    async def close(self) -> None:
        """Close the backend, unless that is done; its jobs, if there are any, fail."""
        if self.closed:
            return
        try:
            await self.backend.close()
        except Exception:
            # One adapter's defect must not keep the others' connections open.
            log.exception("an adapter failed", backend=self.backend.id)
        self.closed = True

    async def look(self) -> None:
        """Ask it how it is and what it serves, and tell what changed."""
        before = self.state
        self._poked.clear()  # before the questions: what fails while they are asked is news
        now = await check_backend(self.backend)
        if self.retired:
            return
        self.looked_at = asyncio.get_running_loop().time()
        self._on_look()
        if now.health.timed_out and before.models and self.running:
            # A server that is busy with jobs may have no thread left for questions (llama.cpp):
            # while its jobs go on it is not dead.
            return
        self._failures = 0 if now.health.reachable else self._failures + 1
        self.state = now
        _log_change(before, now)
        await self._read_load()
        self._tell_change()

    def _patience_s(self) -> float:
        """How long until the next look."""
        if self.state.health.reachable:
            return self._interval_s
        if self.state.health.loading:
            return LOADING_EVERY_S
        # Half of it jitter, so that several agents beside one server do not ask in step.
        full = min(RETRY_CAP_S, 2.0 ** min(self._failures, 10))
        return full * (0.5 + 0.5 * self._uniform())

    def _rest_s(self, now: float) -> float:
        """How long until a failure may have the backend looked at again."""
        since_look_s = POKE_REST_S if self.looked_at is None else now - self.looked_at
        return max(0.0, POKE_REST_S - since_look_s)

    def _tell_change(self) -> None:
        offers = bool(self.state.models) and not self.guard.is_out
        offered = (self.state.models, self.state.capacity) if offers else ()
        if offered != self._offered and not self.retired:
            self._offered = offered
            self._on_change()

    async def _read_load(self) -> None:
        """Refresh what the server says of its load; a failure is the next look's to judge."""
        load: ServerLoad | None = None
        try:
            if self.state.health.reachable and not self.retired:
                async with asyncio.timeout(LOAD_EVERY_S):
                    load = await self.backend.load()
                self._load_fails = False
        except (BackendError, TimeoutError):
            pass
        except Exception:
            # Said once and not every few seconds.
            if not self._load_fails:
                log.exception("an adapter failed", backend=self.backend.id)
            self._load_fails = True
        self.state = structs.replace(self.state, load=load)


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
        log.exception("an adapter failed", backend=backend.id)
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
        log.info("backend is up", **fields)
    elif not now.health.reachable and before.health.last_error != now.health.last_error:
        fields["reason"] = now.health.last_error
        log.warning("backend is down", **fields)
    elif before.models != now.models:
        log.info("backend models changed", **fields)
