"""What is known of one backend, as `models` and `check` show it."""

import msgspec

from provider_agent.adapters.base import BackendModel, ServerLoad
from provider_agent.agent.backends.configured import SkippedBackend
from provider_agent.agent.backends.health_check import BackendState

MAX_WITHHELD_SHOWN = 50
"""A passthrough's catalogue has hundreds; programs get all of them with `--json`."""


class ModelReport(msgspec.Struct, frozen=True):
    """One model of a backend.

    Attributes:
        model_id: what jobs call it.
        upstream_id: what the server calls it.
        operations: found on this server for it, sorted.
        context_window: effective, in tokens; None: unknown.
        withheld: why it is not offered; "" when it is.
    """

    model_id: str
    upstream_id: str
    operations: list[str]
    context_window: int | None
    withheld: str = ""


class BackendReport(msgspec.Struct, frozen=True):
    """One backend.

    Attributes:
        id: of the backend.
        version: of the server; "" when it does not tell.
        problem: why nothing of it is offered, and what to do; "" when something is.
        capacity: jobs of this agent it takes at once.
        load: what the server says of its load; None when it does not.
        models: everything it has, what is not offered with the reason.
    """

    id: str
    version: str = ""
    problem: str = ""
    capacity: int = 0
    load: ServerLoad | None = None
    models: list[ModelReport] = []

    @property
    def summary(self) -> str:
        """Version, capacity and load in a few words."""
        parts = [f"version {self.version}"] if self.version else []
        parts.append(f"{self.capacity} jobs at once")
        if self.load is not None:
            waiting = "" if self.load.waiting is None else f", {self.load.waiting} waiting"
            parts.append(f"{self.load.running or 0} running now{waiting}")
        return ", ".join(parts)


def report_of(state: BackendState) -> BackendReport:
    """The report of a backend that was looked at."""
    problem = ""
    if not state.health.reachable:
        problem = state.health.last_error or "not healthy"
    elif not state.models:
        problem = "healthy, but offers no model; see why its models are withheld"
    return BackendReport(
        id=state.backend.id,
        version=state.backend.version,
        problem=problem,
        capacity=state.capacity,
        load=state.load,
        models=[_model(model) for model in (*state.models, *state.withheld)],
    )


def report_of_skipped(skipped: SkippedBackend) -> BackendReport:
    """The report of a backend that is not used at all."""
    return BackendReport(skipped.backend_id, problem=f"skipped: {skipped.reason}")


def _model(model: BackendModel) -> ModelReport:
    return ModelReport(
        model.model_id,
        model.upstream_id,
        sorted(model.operations),
        model.context_window,
        model.withheld,
    )
