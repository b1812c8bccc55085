"""The pool of all backends, each with its health monitor. Backends can be added and removed.

A backend that the operator removed or changed is retired: it receives no new jobs, and is closed
when its last job has ended.
"""

import asyncio
import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import Final

from provider_agent.adapters.base import Backend, BackendModel
from provider_agent.agent.backends.admission import AdmissionControl
from provider_agent.agent.backends.attempt import Attempt
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.backends.health_check import BackendState
from provider_agent.agent.backends.health_monitor import HealthMonitor
from provider_agent.agent.backends.liveness import LIVENESS_INTERVAL_S
from provider_agent.agent.backends.model_use import ModelUse
from provider_agent.agent.backends.offer_groups import OfferGroup, ServedModel, offer_group
from provider_agent.agent.backends.pricing import NO_PRICES, price_for
from provider_agent.agent.backends.routing import Route
from provider_agent.agent.config.schema import PricingConfig

CHECK_INTERVAL_S: Final = 60.0
"""Seconds between two health checks of a healthy backend. Short enough to notice that a server has
changed its model before many jobs fail."""


class Discovery:
    """All backends, in the order of the configuration.

    Args:
        backends: the first backends; `replace_backends` changes them.
        on_change: called when the offered models or a backend's capacity may have changed.
        pricing: the operator's prices.
        interval_s: seconds between two health checks of a healthy backend.
        liveness_interval_s: the most seconds between two liveness checks of an idle backend; 0:
            none.
        clock: returns monotonic seconds.
        uniform: returns random numbers in [0, 1).
    """

    def __init__(
        self,
        backends: Backends,
        on_change: Callable[[], None],
        *,
        pricing: PricingConfig = NO_PRICES,
        interval_s: float = CHECK_INTERVAL_S,
        liveness_interval_s: float = LIVENESS_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._monitors: dict[str, HealthMonitor] = {}
        """The monitors of the backends in use, by backend id."""
        self._retired: list[HealthMonitor] = []
        """The monitors of retired backends that are not closed yet."""
        self._unstarted: asyncio.Queue[HealthMonitor] = asyncio.Queue()
        self._suspended: frozenset[str] = frozenset()
        """The ids of the backends that receive no new jobs for now, by the operator's decision."""
        self._on_change = on_change
        self._pricing = pricing
        self._served: dict[str, list[ServedModel]] = {}
        """What `_served_by_id` returned last."""
        self._served_from: list[tuple[BackendModel, ...]] | None = None
        """The models of all monitors at that time; None: `_served` is out of date."""
        self._groups: dict[str, OfferGroup] = {}
        """The group of all entries of `_served`, by model id; filled as needed."""
        self._interval_s = interval_s
        self._liveness_interval_s = liveness_interval_s
        self._clock = clock
        self._uniform = uniform
        self._all_checked = asyncio.Event()
        self._set_backends(backends)

    @property
    def monitors(self) -> Sequence[HealthMonitor]:
        """The monitors of the backends in use, in the order of the configuration."""
        return list(self._monitors.values())

    @property
    def states(self) -> Sequence[BackendState]:
        """The results of the last health checks, in the order of the configuration."""
        return [monitor.state for monitor in self._monitors.values()]

    @property
    def busy_ids(self) -> frozenset[str]:
        """The ids of backends that execute jobs now; a new backend must not have one of them."""
        return frozenset(monitor.backend.id for monitor in self._all_monitors() if monitor.running)

    def kinds(self) -> dict[str, str]:
        """Return the kinds of the backends in use by their ids."""
        return {one.backend.id: one.backend.kind for one in self._monitors.values()}

    def served_models(self) -> list[ServedModel]:
        """Return every model of every healthy backend, except those that a breaker stops."""
        return [
            self._serve(monitor, model)
            for monitor in self._monitors.values()
            for model in self._offerable(monitor)
            if not monitor.admission.is_open(model.model_id)
        ]

    def routes(self, model_id: str) -> list[Route]:
        """Return the backends of a model's offer: healthy, and not stopped by a breaker.

        Backends without free capacity are included.
        """
        served = self._served_by_id().get(model_id, [])
        monitors = self._monitors
        serving = [
            one for one in served if not monitors[one.backend.id].admission.is_open(model_id)
        ]
        if not serving:
            return []
        if len(serving) < len(served):
            group = offer_group(serving)
        elif (known := self._groups.get(model_id)) is not None:
            group = known
        else:
            group = self._groups[model_id] = offer_group(serving)
        return [self._route(one) for one in group.members]

    def _served_by_id(self) -> dict[str, list[ServedModel]]:
        """Return the models of healthy backends by their ids; computed when they have changed.

        A backend may have hundreds of models, and each job needs the backends of one.
        """
        models = [self._offerable(monitor) for monitor in self._monitors.values()]
        if models != self._served_from:
            self._served_from, self._served, self._groups = models, {}, {}
            for monitor in self._monitors.values():
                for model in self._offerable(monitor):
                    one = self._serve(monitor, model)
                    self._served.setdefault(model.model_id, []).append(one)
        return self._served

    def _offerable(self, monitor: HealthMonitor) -> tuple[BackendModel, ...]:
        return () if monitor.backend.id in self._suspended else monitor.state.models

    def _serve(self, monitor: HealthMonitor, model: BackendModel) -> ServedModel:
        price = price_for(model, self._pricing, monitor.markup)
        return ServedModel(monitor.backend, model, price, monitor.overflow)

    def _route(self, one: ServedModel) -> Route:
        monitor, model = self._monitors[one.backend.id], one.model
        return Route(
            backend=one.backend,
            order=self._order[one.backend.id],
            native=model.native,
            operations=model.operations,
            in_flight=monitor.running,
            capacity=monitor.capacity(model.model_id),
            retry_after_s=monitor.admission.retry_after_s,
            model_id=model.model_id,
            price=one.price,
        )

    def start(self, route: Route) -> Attempt:
        """Start an attempt on the backend of a route that `routes` has just returned."""
        return self._monitors[route.backend_id].start(route.model_id)

    async def answers(self, backend_id: str) -> bool:
        """Whether a backend answers a health check now; True if it is no longer in use."""
        monitor = self._monitors.get(backend_id)
        return monitor is None or await monitor.answers()

    # --- backends are added and removed ----------------------------------------------------------

    def replace_backends(self, backends: Backends) -> None:
        """Replace the backends in use.

        A backend object that is in use before and after keeps its health and its breaker. A backend
        that is missing from `backends` is retired.

        Args:
            backends: the new backends; no id of an added backend may be in `busy_ids`.
        """
        self._set_backends(backends)
        self._on_change()

    def suspend(self, backend_ids: Collection[str]) -> None:
        """Withdraw the offers of these backends, and of no others; running jobs continue."""
        self._suspended = frozenset(backend_ids)
        self._on_change()

    def set_pricing(self, pricing: PricingConfig) -> None:
        """Change the operator's prices without `on_change`; call `replace_backends` next."""
        self._pricing = pricing
        self._served_from = None

    def set_intervals(self, interval_s: float, liveness_interval_s: float) -> None:
        """Change the times between two checks of a backend."""
        self._interval_s, self._liveness_interval_s = interval_s, liveness_interval_s
        for monitor in self._monitors.values():
            monitor.set_intervals(interval_s, liveness_interval_s)

    def _set_backends(self, backends: Backends) -> None:
        before = {id(monitor.backend): monitor for monitor in self._monitors.values()}
        self._monitors = {}
        for backend in backends.usable:
            monitor = before.pop(id(backend), None) or self._new_monitor(backend)
            monitor.markup = backends.markups.get(backend.id)
            monitor.overflow = backend.id in backends.overflow
            monitor.admission.set_token_limit(backends.tokens_per_minute.get(backend.id))
            self._monitors[backend.id] = monitor
        self._order = {backend_id: index for index, backend_id in enumerate(self._monitors)}
        self._served_from = None
        for monitor in before.values():
            monitor.retire()
            self._retired.append(monitor)
        self._update_all_checked()

    def _new_monitor(self, backend: Backend) -> HealthMonitor:
        monitor = HealthMonitor(
            backend,
            AdmissionControl(backend, None, self._clock),
            ModelUse(self._clock),
            self._update_all_checked,
            self._on_change,
            interval_s=self._interval_s,
            liveness_interval_s=self._liveness_interval_s,
            uniform=self._uniform,
            clock=self._clock,
        )
        self._unstarted.put_nowait(monitor)
        return monitor

    def _all_monitors(self) -> Iterator[HealthMonitor]:
        yield from self._retired
        yield from self._monitors.values()

    # --- health checks ---------------------------------------------------------------------------

    async def check_all(self) -> None:
        """Check every backend concurrently; each result is used as soon as it arrives."""
        await asyncio.gather(*(monitor.check() for monitor in self._monitors.values()))

    async def wait_for_first_checks(self, at_most_s: float) -> None:
        """Return when every backend has been checked once, or after `at_most_s` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._all_checked.wait()

    async def run(self) -> None:
        """Monitor every backend, also those added later, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                monitor = await self._unstarted.get()
                group.create_task(self._run(monitor), name=f"monitor {monitor.backend.id}")

    async def _run(self, monitor: HealthMonitor) -> None:
        await monitor.run()
        self._retired.remove(monitor)

    async def close(self) -> None:
        """Close every backend. Call it only after `run` has ended and when no job runs."""
        for monitor in self._all_monitors():
            await monitor.close()

    def _update_all_checked(self) -> None:
        if all(monitor.checked_at is not None for monitor in self._monitors.values()):
            self._all_checked.set()
