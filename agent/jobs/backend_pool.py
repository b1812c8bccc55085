"""What jobs need of the backends: routes to them, and attempts on them."""

from typing import Protocol

from provider_agent.agent.backends.attempt import Attempt
from provider_agent.agent.backends.routing import Refusal, Route, choose_routes
from provider_agent.protocol.frames import Job


class BackendPool(Protocol):
    """The backends that jobs run on."""

    def routes(self, model_id: str) -> list[Route]:
        """The healthy backends that serve the model, with their load."""
        ...

    def start(self, route: Route) -> Attempt:
        """Start an attempt on the backend of a route that `routes` has just returned."""
        ...


def find_routes(pool: BackendPool, job: Job) -> list[Route] | Refusal:
    """The backends that may execute the job now, best first."""
    return choose_routes(job.format, job.operation, pool.routes(job.model_id))
