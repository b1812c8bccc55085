"""The state of the running agent as text for a terminal."""

import math
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

from rich.table import Column, Table

from provider_agent.agent.availability.availability import time_text
from provider_agent.agent.availability.status import AvailabilityStatus
from provider_agent.agent.cli.status_jobs_text import ago, duration, hour_text, job_parts
from provider_agent.agent.cli.terminal import dollar_text, visible
from provider_agent.agent.telemetry.metrics import OK
from provider_agent.agent.telemetry.rolling_stats import StatsSnapshot
from provider_agent.agent.telemetry.status import (
    BackendStatus,
    StatusSnapshot,
    readiness,
)
from provider_agent.protocol.limits import SUBPROTOCOL

_LISTED: Final = 8
"""The most names in one row, and the most models with their earnings."""

_REFUSALS: Final = 5
"""The most refused jobs; the agent keeps a few more for JSON."""


def status_parts(state: StatusSnapshot) -> Iterator[Table | str]:
    """Yield the tables and lines of the status, from top to bottom."""
    yield _facts(state)
    yield _backends(state)
    yield from job_parts(state)
    if state.routing is not None:
        for one in state.routing.unroutable:
            yield f"no jobs for {one.model_id}: {one.message} ({one.code})"
    for refused in state.last_refusals[:_REFUSALS]:
        model = refused.model_id or "a model that is not offered"
        yield f"refused {ago(refused.age_s)}, {model}: {refused.reason}: {refused.remedy}"
    for notice in state.notices:
        model = "" if notice.model_id is None else f" about {notice.model_id}"
        heading = f"{notice.severity} from the coordinator {ago(notice.age_s)}{model}"
        yield f"{heading}: {notice.message} ({notice.code})"
    if (problem := state.ledger.problem) is not None:
        yield f"{problem}; first {ago(state.ledger.problem_age_s)}"
    reasons = readiness(state)
    for reason in reasons:
        yield f"not ready: {reason}"
    if not reasons:
        yield "ready"


def _facts(state: StatusSnapshot) -> Table:
    facts = Table.grid("", Column(overflow="fold"), padding=(0, 2))
    facts.add_row("version", f"{state.version}, compiled" if state.compiled else state.version)
    facts.add_row("up", duration(state.uptime_s))
    facts.add_row("coordinator", visible(state.coordinator_url))
    if state.dialect != SUBPROTOCOL:
        facts.add_row("dialect", visible(state.dialect))
    facts.add_row("link", state.link)
    if serves := _serving(state.availability):
        facts.add_row("serves", serves)
    facts.add_row("last welcome", ago(state.last_welcome_age_s))
    if state.last_disconnect:  # absent while connected, also if an earlier link was lost
        facts.add_row("last disconnect", visible(state.last_disconnect))
    facts.add_row("offered models", _routing(state))
    if (routable := _routable(state)) is not None:
        facts.add_row("can receive jobs", _names(routable))
    facts.add_row("last job", ago(state.last_job_age_s))
    if state.last_error_code is not None:
        code = visible(state.last_error_code)
        facts.add_row("last error", f"{code}, {ago(state.last_error_age_s)}")
    queued = sum(backend.queued for backend in state.backends)
    waiting = f", {queued} waiting for the first byte" if queued else ""
    facts.add_row("jobs", f"{state.in_flight} of {state.capacity}{waiting}")
    facts.add_row("last minute", _stats(state.stats))
    facts.add_row("last hour", hour_text(state.last_hour))
    for row in _totals(state):
        facts.add_row(*row)
    if state.token_limit_wait_s:
        wait = duration(math.ceil(state.token_limit_wait_s))
        facts.add_row("token limit", f"used up; jobs are refused for {wait}")
    return facts


def _totals(state: StatusSnapshot) -> Iterator[tuple[str, str]]:
    totals = state.totals
    ended = totals.jobs.get(OK, 0), sum(totals.jobs.values())
    failed = _counts({code: count for code, count in totals.jobs.items() if code != OK})
    yield "ended jobs", f"{ended[0]} of {ended[1]} ok{f'; {failed}' if failed else ''}"
    if totals.refusals:
        yield "refused jobs", f"{sum(totals.refusals.values())}: {_counts(totals.refusals)}"
    if totals.earned:
        total = dollar_text(sum(totals.earned.values()))
        yield "earned", f"{total}, not confirmed by the coordinator"
        best = sorted(totals.earned.items(), key=lambda one: -one[1])
        for model_id, amount in best[:_LISTED]:
            yield "", f"{dollar_text(amount)} {visible(model_id)}"


def _backends(state: StatusSnapshot) -> Table:
    table = Table(Column("backend", overflow="fold"), "healthy", "models", "jobs", "problem")
    for backend in state.backends:
        table.add_row(
            backend.id,
            "yes" if backend.healthy else "no",
            str(backend.models),
            f"{backend.running} of {backend.capacity}",
            visible(_problem(backend)),
        )
    return table


def _problem(backend: BackendStatus) -> str:
    return "; ".join(filter(None, (backend.availability.reason, backend.last_error)))


def _serving(state: AvailabilityStatus) -> str:
    """Return when the agent serves; "" if neither schedule nor pause limits it."""
    if state.reason is not None:
        return f"no: {state.reason}{_back(state)}"
    return f"until {_moment(state.schedule_changes_at)}" if state.schedule_changes_at else ""


def _back(state: AvailabilityStatus) -> str:
    """Return when the agent serves again, or how, if the reason does not say it."""
    if state.paused and state.paused_until is None:
        return "; `provider-agent resume` ends the pause"
    ends = {state.paused_until} if state.paused else set()
    if not state.scheduled:
        ends.add(state.schedule_changes_at)
    if state.opens_at is None or ends == {state.opens_at}:
        return ""
    return f"; back at {_moment(state.opens_at)}"


def _moment(iso: str) -> str:
    """Return a time of ISO 8601 as the reasons show it."""
    time = datetime.fromisoformat(iso)
    return time_text(time.timestamp(), time.tzinfo)


def _routing(state: StatusSnapshot) -> str:
    if state.draining:
        return "draining"
    if state.coordinator_draining:
        return "the coordinator is stopping; it sends no new jobs"
    if not state.availability.open:
        return "none: the agent does not serve now"
    if not any(
        backend.healthy and backend.models and backend.availability.open
        for backend in state.backends
    ):
        return "none offered"
    if state.routing is None:
        own_protocol = state.dialect == SUBPROTOCOL
        return f"not reported {'by the coordinator yet' if own_protocol else 'in this dialect'}"
    count = state.routing.unroutable_count
    return f"{count} cannot receive jobs" if count else "all can receive jobs"


def _routable(state: StatusSnapshot) -> list[str] | None:
    """Return the models that the coordinator sends jobs for; None if that is not known."""
    routing = state.routing
    if routing is None or not state.offered or len(routing.unroutable) < routing.unroutable_count:
        return None
    unroutable = {one.model_id for one in routing.unroutable}
    return [model_id for model_id in state.offered if model_id not in unroutable]


def _stats(stats: StatsSnapshot) -> str:
    if stats.error_rate is None:
        return "no job ended"
    parts = []
    if stats.tokens_per_second is not None:
        parts.append(f"{stats.tokens_per_second:.1f} tokens/s")
    if stats.first_byte_p50_ms is not None and stats.first_byte_p95_ms is not None:
        p50, p95 = stats.first_byte_p50_ms, stats.first_byte_p95_ms
        parts.append(f"first byte {p50:.0f} ms (median), {p95:.0f} ms (p95)")
    parts.append(f"{stats.error_rate:.1%} failed")
    return ", ".join(parts)


def _counts(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return ", ".join(f"{count} {name}" for name, count in ordered)


def _names(names: Iterable[str]) -> str:
    found = [visible(name) for name in names]
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return (", ".join(found[:_LISTED]) or "none") + more
