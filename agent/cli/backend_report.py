"""The report about one backend that `models` and `check` print."""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from provider_agent.adapters.base import BackendModel, ServerLoad
from provider_agent.agent.backends.configured import SkippedBackend
from provider_agent.agent.backends.health_check import BackendState
from provider_agent.agent.cli.terminal import counted

MAX_WITHHELD_PRINTED = 50
"""How many withheld models of a backend are printed as text; `--json` prints all that the backend
keeps (`MAX_WITHHELD`). The catalog of a passthrough has hundreds."""


class ModelReport(msgspec.Struct, frozen=True):
    """One model of a backend.

    Attributes:
        model_id: the id that jobs use.
        upstream_id: the id that the server uses.
        operations: the supported operations, sorted.
        context_window: tokens that a request can use; None if unknown.
        withheld: why the model is not offered; "" if it is offered.
    """

    model_id: str
    upstream_id: str
    operations: list[str]
    context_window: int | None
    withheld: str = ""


class BackendReport(msgspec.Struct, frozen=True):
    """One backend.

    Attributes:
        id: the backend's id.
        version: the server's version; "" if unknown.
        problem: why the backend offers no model; "" if it offers one.
        capacity: limit of concurrent jobs; 0 if the backend is not healthy.
        load: the load that the server reports; None if it reports none.
        models: the offered models, and those withheld models that the backend keeps.
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
        parts.append(counted(self.capacity, "concurrent job"))
        if self.load is not None and self.load.running is not None:
            parts.append(f"{self.load.running} running now")
        if self.load is not None and self.load.waiting is not None:
            parts.append(f"{self.load.waiting} waiting")
        return ", ".join(parts)


def report_of(
    state: BackendState, withheld: Mapping[str, str] = MappingProxyType({})
) -> BackendReport:
    """Return the report of a backend after a health check.

    Args:
        state: the result of the health check.
        withheld: why the agent does not offer some of its models, by model id.
    """
    problem = ""
    if not state.health.reachable:
        problem = state.health.last_error or "not healthy"
    elif not state.models:
        problem = "healthy, but offers no model"
        if state.withheld:
            problem += "; see the reasons below"
    return BackendReport(
        id=state.backend.id,
        version=state.backend.version,
        problem=problem,
        capacity=state.capacity,
        load=state.load,
        models=[_model(model, withheld) for model in (*state.models, *state.withheld)],
    )


def report_of_skipped(skipped: SkippedBackend) -> BackendReport:
    """Return the report of a backend that is not used."""
    return BackendReport(skipped.backend_id, problem=f"skipped: {skipped.reason}")


def _model(model: BackendModel, withheld: Mapping[str, str]) -> ModelReport:
    return ModelReport(
        model.model_id,
        model.upstream_id,
        sorted(model.operations),
        model.context_window,
        model.withheld or withheld.get(model.model_id, ""),
    )
