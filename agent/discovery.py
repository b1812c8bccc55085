"""Asks every backend how it is and what it serves, at the start and again on a timer."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct

from adapters.base import Backend, BackendError, BackendHealth, BackendModel
from adapters.http_errors import describe
from agent.capabilities import Serving
from agent.routing import Route

log = logging.getLogger("provider_agent.discovery")

CHECK_EVERY_S: Final = 60.0
"""Often enough that a model swap is noticed before many jobs fail on it."""

RECHECK_EVERY_S: Final = 10.0
"""While a backend is down or loading: it should earn again soon after it is back."""


CHECK_TIMEOUT_S: Final = 60.0
"""For one backend's answers together; adapters have shorter clocks, those of third parties perhaps
none."""


class BackendState(Struct, frozen=True):
    """What the last round found out about one backend.

    Attributes:
        backend: which.
        health: whether jobs can be sent.
        models: what it serves; empty while it is not healthy.
        capacity: jobs it takes at once; some servers tell it with their models.
    """

    backend: Backend
    health: BackendHealth
    models: tuple[BackendModel, ...] = ()
    capacity: int = 0


class Discovery:
    """Keeps what is known of the backends.

    Args:
        backends: in the order of the configuration.
        markups: by backend id.
        on_change: called when a backend serves something different than before.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        markups: Mapping[str, float | None],
        on_change: Callable[[], None],
    ) -> None:
        unknown = BackendHealth(False, None, "not asked yet")
        self._states = [BackendState(backend, unknown) for backend in backends]
        self._backends = {backend.id: backend for backend in backends}
        self._markups = markups
        self._on_change = on_change
        self._first_round = asyncio.Event()

    @property
    def states(self) -> Sequence[BackendState]:
        """What the last round found, in the order of the configuration."""
        return self._states

    def serving(self) -> list[Serving]:
        """Every model of every healthy backend."""
        return [
            (state.backend, model, self._markups.get(state.backend.id))
            for state in self._states
            for model in state.models
        ]

    def routes(self, model_id: str, in_flight: Callable[[str], int]) -> list[Route]:
        """The healthy backends that serve a model; see `jobs.Served`."""
        return [
            Route(
                backend_id=state.backend.id,
                order=order,
                native=model.native,
                operations=frozenset(model.operations),
                in_flight=in_flight(state.backend.id),
                capacity=state.backend.max_concurrent,
            )
            for order, state in enumerate(self._states)
            for model in state.models
            if model.model_id == model_id
        ]

    def backend(self, backend_id: str) -> Backend:
        """The backend of a route."""
        return self._backends[backend_id]

    async def check_all(self) -> None:
        """One round: ask every backend at once; what one says counts without waiting for others."""
        await asyncio.gather(*(self._check(index) for index in range(len(self._states))))
        self._first_round.set()

    async def _check(self, index: int) -> None:
        before = self._states[index]
        self._states[index] = now = await check_backend(before.backend)
        _log_change(before, now)
        if (before.models, before.capacity) != (now.models, now.capacity):
            self._on_change()

    async def wait_for_first_round(self, at_most_s: float) -> None:
        """Return when every backend has answered or failed once, or when the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._first_round.wait()

    async def run(self) -> None:
        """Round after round, until cancelled."""
        while True:
            await self.check_all()
            well = all(state.health.reachable for state in self._states)
            await asyncio.sleep(CHECK_EVERY_S if well else RECHECK_EVERY_S)


async def check_backend(backend: Backend) -> BackendState:
    """Ask one backend how it is and what it serves; never raises for a server's fault."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            health = await backend.health()
            if not health.reachable:
                return BackendState(backend, health)
            models = tuple(await backend.list_models())
    except BackendError as error:
        return BackendState(backend, BackendHealth(False, None, describe(error)))
    except TimeoutError:
        text = f"no answer to its health check within {CHECK_TIMEOUT_S:.0f} s"
        return BackendState(backend, BackendHealth(False, None, text))
    except Exception:
        # An adapter of a third party must not take the agent down with it.
        log.exception("an adapter failed", extra={"fields": {"backend": backend.id}})
        return BackendState(backend, BackendHealth(False, None, "the adapter failed; see the log"))
    return BackendState(backend, health, models, backend.max_concurrent)


def _log_change(before: BackendState, now: BackendState) -> None:
    fields: dict[str, object] = {"backend": now.backend.id, "models": len(now.models)}
    if now.health.reachable and not before.health.reachable:
        log.info("backend is up", extra={"fields": fields})
    elif not now.health.reachable and before.health.last_error != now.health.last_error:
        fields["reason"] = now.health.last_error
        log.warning("backend is down", extra={"fields": fields})
    elif before.models != now.models:
        log.info("backend serves other models", extra={"fields": fields})
