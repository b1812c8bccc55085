"""A `Discovery` whose health checks run in a task, or only when the test calls them."""

import asyncio
from collections.abc import Sequence
from itertools import count
from types import TracebackType
from typing import Self

from provider_agent.adapters.base import Backend, BackendError
from provider_agent.agent.backends.attempt import Attempt
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.backends.discovery import CHECK_INTERVAL_S, Discovery
from provider_agent.agent.backends.health_monitor import HealthMonitor
from provider_agent.agent.backends.liveness import LIVENESS_INTERVAL_S
from tests.kit.virtual_time import now


def find_monitor(discovery: Discovery, backend_id: str) -> HealthMonitor:
    """Return the monitor of the backend with this id."""
    (found,) = [one for one in discovery.monitors if one.backend.id == backend_id]
    return found


class DiscoveryHarness:
    """A `Discovery` and the changes that it reported. As a context manager, it runs the checks.

    Args:
        backends: the configured backends.
        interval_s: the time between health checks.
        liveness_interval_s: the most time between liveness checks.
        jitter: the value that replaces every random number.

    Attributes:
        began: the time when the harness was created.
        changed_at: the times when changes were reported.
    """

    def __init__(
        self,
        *backends: Backend,
        interval_s: float = CHECK_INTERVAL_S,
        liveness_interval_s: float = LIVENESS_INTERVAL_S,
        jitter: float = 1.0,
    ) -> None:
        self.began = now()
        self.changed_at: list[float] = []
        self.changed = asyncio.Event()
        self._requests = count()
        self.discovery = Discovery(
            Backends([*backends], {}, []),
            self._record_change,
            interval_s=interval_s,
            liveness_interval_s=liveness_interval_s,
            clock=now,
            uniform=lambda: jitter,
        )
        self._task: asyncio.Task[None] | None = None

    def _record_change(self) -> None:
        self.changed_at.append(now())
        self.changed.set()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.discovery.run())
        await self.discovery.wait_for_first_checks(5.0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        assert not self._task.done(), "discovery ended by itself"
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def changes(self) -> int:
        return len(self.changed_at)

    def models(self) -> list[str]:
        return [one.model.model_id for one in self.discovery.served_models()]

    def errors(self) -> Sequence[str | None]:
        return [state.health.last_error for state in self.discovery.states]

    def routes(self, model_id: str = "m") -> list[tuple[str, int]]:
        """For each route: the id of its backend, and that backend's place in the configuration."""
        return [(route.backend_id, route.order) for route in self.discovery.routes(model_id)]

    def capacities(self, model_id: str = "m") -> list[int]:
        return [route.capacity for route in self.discovery.routes(model_id)]

    def monitor(self, backend_id: str) -> HealthMonitor:
        return find_monitor(self.discovery, backend_id)

    def start(self, backend_id: str) -> Attempt:
        return self.monitor(backend_id).start("m")

    def fail(self, backend: Backend, error: BackendError, times: int = 1) -> None:
        """Fail `times` jobs on the backend, each with a request of its own."""
        for _ in range(times):
            self.start(backend.id).failed(error, request=next(self._requests))

    def replace(self, *backends: Backend) -> None:
        self.discovery.replace_backends(Backends([*backends], {}, []))

    async def next_change(self) -> float:
        """Wait for the next change; return the seconds since `began`."""
        self.changed.clear()
        await self.changed.wait()
        return now() - self.began
