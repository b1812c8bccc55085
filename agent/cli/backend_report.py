"""The report about one backend that `models` and `check` print."""

import msgspec

from provider_agent.adapters.base import BackendModel, ServerLoad
from provider_agent.agent.backends.configured import SkippedBackend
from provider_agent.agent.backends.health_check import BackendState

MAX_WITHHELD_PRINTED = 50
"""A passthrough's catalog has hundreds of models; `--json` prints all of them."""


class ModelReport(msgspec.Struct, frozen=True):
    """One model of a backend.

    Attributes:
        model_id: its id in jobs.
        upstream_id: its id on the server.
        operations: supported for it, sorted.
        context_window: effective, in tokens; None: unknown.
        withheld: why it is not offered; "" if it is.
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
        version: of the server; "" if unknown.
        problem: why none of its models is offered, and what to do; "" if one is.
        capacity: concurrent jobs that it accepts.
        load: as the server reports it; None if it does not.
        models: all of its models, also those that are not offered.
    """

    id: str
    version: str = ""
    problem: str = ""
    capacity: int = 0
    load: ServerLoad | None = None
    models: list[ModelReport] = []

    @property
    def summary(self) -> str:
        """Version, capacity and load in one phrase."""
        parts = [f"version {self.version}"] if self.version else []
        parts.append(f"{self.capacity} concurrent jobs")
        if self.load is not None and self.load.running is not None:
            parts.append(f"{self.load.running} running now")
        if self.load is not None and self.load.waiting is not None:
            parts.append(f"{self.load.waiting} waiting")
        return ", ".join(parts)


def report_of(state: BackendState) -> BackendReport:
    """The report of a backend after a health check."""
    problem = ""
    if not state.health.reachable:
        problem = state.health.last_error or "not healthy"
    elif not state.models:
        problem = "healthy, but offers no model; see the reasons below"
    return BackendReport(
        id=state.backend.id,
        version=state.backend.version,
        problem=problem,
        capacity=state.capacity,
        load=state.load,
        models=[_model(model) for model in (*state.models, *state.withheld)],
    )


def report_of_skipped(skipped: SkippedBackend) -> BackendReport:
    """The report of a backend that is not used."""
    return BackendReport(skipped.backend_id, problem=f"skipped: {skipped.reason}")


def _model(model: BackendModel) -> ModelReport:
    return ModelReport(
        model.model_id,
        model.upstream_id,
        sorted(model.operations),
        model.context_window,
        model.withheld,
    )
