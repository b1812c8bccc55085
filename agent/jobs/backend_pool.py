"""The interface through which jobs use the backends: find routes, and start attempts."""

import logging
from typing import Protocol

from provider_agent.agent.backends.attempt import Attempt
from provider_agent.agent.backends.pricing import OfferedPrice
from provider_agent.agent.backends.routing import Refusal, Route, choose_routes
from provider_agent.event_log import EventLogger
from provider_agent.protocol.frames import JobHeader

log = EventLogger(__name__)


class BackendPool(Protocol):
    """The backends that jobs run on."""

    def routes(self, model_id: str) -> list[Route]:
        """Return the healthy backends that serve the model, with their load."""
        ...

    def start(self, route: Route) -> Attempt:
        """Start an attempt on the backend of a route that `routes` has just returned."""
        ...

    async def answers(self, backend_id: str) -> bool:
        """Whether a backend answers a health check now; True if it is no longer in use."""
        ...


def find_routes(pool: BackendPool, job: JobHeader, offered: OfferedPrice) -> list[Route] | Refusal:
    """Return the backends that may execute the job now, best first, or why there is none.

    Args:
        pool: the backends.
        job: the job's header.
        offered: the price of the model that was offered when the job arrived.
    """
    routes = pool.routes(job.model_id)
    chosen = choose_routes(job.format, job.operation, routes, offered)
    if log.enabled_for(logging.DEBUG):
        _log_routes(job, routes, chosen)
    return chosen


def _log_routes(job: JobHeader, routes: list[Route], chosen: list[Route] | Refusal) -> None:
    log.debug(
        "routes considered",
        job=job.job_id.hex(),
        model=job.model_id,
        format=job.format,
        operation=job.operation,
        considered=[
            {
                "backend": route.backend_id,
                "native": route.native,
                "price": route.price,
                "operations": sorted(route.operations),
                "in_flight": route.in_flight,
                "capacity": route.capacity,
                "retry_after_s": route.retry_after_s,
            }
            for route in routes
        ],
        chosen=[route.backend_id for route in chosen] if isinstance(chosen, list) else [],
        refusal=chosen.message if isinstance(chosen, Refusal) else None,
    )
