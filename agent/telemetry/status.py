"""The agent's state as one value, and what it says about being ready. Pure."""

from msgspec import Struct

from provider_agent.agent.link.state import LinkState
from provider_agent.agent.telemetry.rolling_stats import StatsSnapshot


class BackendStatus(Struct, frozen=True, kw_only=True):
    """One backend as `status` shows it.

    Attributes:
        id: of the backend.
        kind: which adapter.
        healthy: whether it gets jobs.
        latency_ms: how long its last health check took; None: no answer.
        last_error: why it is not healthy; None when it is.
        models: how many of its models are offered.
    """

    id: str
    kind: str
    healthy: bool
    latency_ms: float | None = None
    last_error: str | None = None
    models: int = 0


class StatusSnapshot(Struct, frozen=True, kw_only=True):
    """The whole agent at one moment; ages are in seconds, None: it never happened.

    Attributes:
        version: of the agent.
        uptime_s: since the process started.
        link: state of the link; `LinkState.CONNECTED` when the coordinator has welcomed the agent.
        coordinator_url: whom it dials.
        last_welcome_age_s: since the last `Welcome`.
        last_rejection: why the coordinator or the network last turned it away.
        last_job_age_s: since the last job was offered.
        draining: it is stopping and takes no jobs.
        in_flight: jobs running.
        capacity: jobs it takes at once.
        backends: every configured backend.
        figures: of the last 60 seconds.
    """

    version: str
    uptime_s: float
    link: str
    coordinator_url: str
    last_welcome_age_s: float | None = None
    last_rejection: str | None = None
    last_job_age_s: float | None = None
    draining: bool = False
    in_flight: int = 0
    capacity: int = 0
    backends: list[BackendStatus] = []
    stats: StatsSnapshot = StatsSnapshot()


def readiness(state: StatusSnapshot) -> list[str]:
    """Why the agent cannot take jobs now, one sentence per reason; empty: it can."""
    reasons = []
    if state.draining:
        reasons.append("draining: the agent is stopping and takes no new jobs")
    if state.link != LinkState.CONNECTED:
        reason = f"not connected: the link to {state.coordinator_url} is {state.link}"
        if state.last_rejection:
            reason += f" ({state.last_rejection})"
        reasons.append(reason)
    if not state.backends:
        reasons.append("no backend: none is configured")
    elif not any(backend.healthy for backend in state.backends):
        errors = "; ".join(
            f"{backend.id}: {backend.last_error or 'not checked yet'}" for backend in state.backends
        )
        reasons.append(f"no healthy backend: {errors}")
    elif not any(backend.healthy and backend.models for backend in state.backends):
        reasons.append("no model: the healthy backends offer none")
    return reasons
