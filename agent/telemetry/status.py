"""The status snapshot of an agent, and the rule for its readiness."""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from provider_agent.agent.availability.status import ALWAYS_OPEN, AvailabilityStatus
from provider_agent.agent.link.coordinator_messages import ReceivedNotice, Routing
from provider_agent.agent.link.state import LinkState
from provider_agent.agent.telemetry.job_status import EndedJobStatus, MinuteStatus, RunningJobStatus
from provider_agent.agent.telemetry.rolling_stats import StatsSnapshot
from provider_agent.protocol.limits import SUBPROTOCOL

MAX_OFFERED: Final = 200
"""The most model ids in the status: a passthrough may offer thousands."""

FINGERPRINT_HEADER: Final = "Provider-Agent-Key"
"""The header of the status server with the fingerprint of the agent's key, by which commands find
their agent among several on one machine."""


class BackendStatus(Struct, frozen=True, kw_only=True):
    """One backend in the status.

    Attributes:
        id: the backend's id.
        kind: the backend's kind.
        healthy: whether its server works; it receives jobs if `availability` allows it too.
        latency_ms: duration of its last health check; None if that failed or there was none.
        last_error: why it receives no jobs, or not all; None: no reason.
        models: number of its models at its last health check; 0 if that failed.
        running: the agent's jobs on it now.
        queued: those of them that have no byte of their response yet.
        capacity: the most of the agent's jobs at once.
        availability: whether its own schedule and pause let it serve now.
    """

    id: str
    kind: str
    healthy: bool
    latency_ms: float | None = None
    last_error: str | None = None
    models: int = 0
    running: int = 0
    queued: int = 0
    capacity: int = 0
    availability: AvailabilityStatus = ALWAYS_OPEN


class RefusedJobStatus(Struct, frozen=True, kw_only=True):
    """A job that the agent refused.

    Attributes:
        reason: a value of `RefusalReason`.
        model_id: the model; "" if the agent did not offer it.
        age_s: seconds since then.
        remedy: what the operator can do about it.
    """

    reason: str
    model_id: str
    age_s: float
    remedy: str = ""


class Totals(Struct, frozen=True, kw_only=True):
    """Sums since the agent started.

    Attributes:
        jobs: ended jobs by outcome: "ok", or an error code.
        refusals: the refused ones of these jobs, by reason; only reasons that occurred.
        earned: millionths of a US dollar by model: price times tokens of the jobs that succeeded.
            The coordinator has not confirmed it.
    """

    jobs: dict[str, int] = {}
    refusals: dict[str, int] = {}
    earned: dict[str, int] = {}


class LedgerStatus(Struct, frozen=True, kw_only=True):
    """Whether the ledger of ended jobs is written.

    Attributes:
        unwritten: jobs since the start that were not written when they ended; they wait for the
            next write, or are lost.
        problem: one sentence about why the last write failed; None if it did not, or there is no
            ledger.
        problem_age_s: seconds since the first of the failed writes.
    """

    unwritten: int = 0
    problem: str | None = None
    problem_age_s: float | None = None


NO_LEDGER: Final = LedgerStatus()


class StatusSnapshot(Struct, frozen=True, kw_only=True):
    """The state of the agent at one moment. Ages are in seconds; an age of None means never.

    Attributes:
        version: the agent's version.
        compiled: whether its hot modules are compiled.
        uptime_s: time since the process started.
        link: state of the link; `LinkState.CONNECTED` when the coordinator has welcomed the agent.
        coordinator_url: the URL that was dialed last; its query is masked.
        dialect: the protocol of that coordinator, as in `[coordinator] dialect`.
        last_welcome_age_s: time since the last `Welcome`.
        last_disconnect: why the last connection ended or could not be opened; None while connected.
        routing: which offered models receive no jobs; None before the coordinator has answered.
        coordinator_draining: whether the connected coordinator is stopping and sends no new jobs.
        notices: the coordinator's latest notices, the latest first.
        last_job_age_s: time since the coordinator last sent a job.
        last_error_age_s: time since a job last failed through the provider's fault.
        last_error_code: the error code of that job; None: there was none.
        draining: whether the agent is stopping and accepts no jobs.
        in_flight: number of running jobs.
        capacity: most jobs that run at once.
        token_limit_wait_s: seconds until the agent's token limit admits jobs again; 0: it does now.
        backends: every configured backend.
        stats: statistics of the last 60 seconds.
        offered: ids of the models that are offered now, `MAX_OFFERED` at most.
        totals: sums since the start.
        last_refusals: the latest refused jobs, the latest first.
        running: the running jobs, the oldest first, `MAX_RUNNING` at most.
        last_jobs: the latest ended jobs, the latest first.
        last_hour: the minutes in which jobs ended, the latest first.
        not_ready: what `readiness` returns; the status server sets it.
        availability: whether schedule and pause let the agent serve now. While they do not, running
            jobs finish, and the link is then closed.
        ledger: whether the ledger is written.
    """

    version: str
    uptime_s: float
    link: str
    coordinator_url: str
    dialect: str = SUBPROTOCOL
    compiled: bool = False
    last_welcome_age_s: float | None = None
    last_disconnect: str | None = None
    routing: Routing | None = None
    coordinator_draining: bool = False
    notices: list[ReceivedNotice] = []
    last_job_age_s: float | None = None
    last_error_age_s: float | None = None
    last_error_code: str | None = None
    draining: bool = False
    in_flight: int = 0
    capacity: int = 0
    token_limit_wait_s: float = 0.0
    backends: list[BackendStatus] = []
    stats: StatsSnapshot = StatsSnapshot()
    offered: list[str] = []
    totals: Totals = Totals()
    last_refusals: list[RefusedJobStatus] = []
    running: list[RunningJobStatus] = []
    last_jobs: list[EndedJobStatus] = []
    last_hour: list[MinuteStatus] = []
    not_ready: list[str] = []
    availability: AvailabilityStatus = ALWAYS_OPEN
    ledger: LedgerStatus = NO_LEDGER


def readiness(state: StatusSnapshot) -> list[str]:
    """Return one sentence per reason why the agent cannot run jobs now; empty when it is ready."""
    reasons = []
    if state.draining:
        reasons.append("draining: the agent is stopping and accepts no new jobs")
    if not state.availability.open:
        reasons.append(f"not serving: {state.availability.reason}")
    if state.coordinator_draining:
        reasons.append("coordinator draining: it is stopping and sends no new jobs")
    if state.link != LinkState.CONNECTED and state.availability.open:
        reason = f"not connected: the link to {state.coordinator_url} is {state.link}"
        if state.last_disconnect:
            reason += f" ({state.last_disconnect})"
        reasons.append(reason)
    if (no_backend := _no_backend(state.backends)) is not None:
        reasons.append(no_backend)
    return reasons


def _no_backend(backends: Sequence[BackendStatus]) -> str | None:
    """Return why no backend can run jobs; None if one can."""
    if not backends:
        return "no backend: none is configured"
    healthy = [backend for backend in backends if backend.healthy]
    if not healthy:
        errors = "; ".join(
            f"{backend.id}: {backend.last_error or 'no reason given'}" for backend in backends
        )
        return f"no healthy backend: {errors}"
    serving = [backend for backend in healthy if backend.availability.open]
    if not serving:
        reasons = "; ".join(f"{backend.id}: {backend.availability.reason}" for backend in healthy)
        return f"no serving backend: {reasons}"
    if not any(backend.models for backend in serving):
        return "no model: the healthy backends offer none"
    return None
