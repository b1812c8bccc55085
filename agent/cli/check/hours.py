"""Findings about schedules and pauses: does the agent serve now, and when does that change?"""

import time
from collections.abc import Callable

from provider_agent.agent.availability.availability import availability, time_text
from provider_agent.agent.availability.hours import AGENT
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.cli.check.findings import Finding, Outcome
from provider_agent.agent.config import Config
from provider_agent.agent.config.schedules import schedule_of
from provider_agent.agent.control.pause_store import PauseStore


def check_hours(
    config: Config, backends: Backends, wall_clock: Callable[[], float] = time.time
) -> list[Finding]:
    """Return a finding for the agent and for each backend with a schedule or a stored pause."""
    now = wall_clock()
    pauses = PauseStore(config.identity.key_path).load()
    schedules = {AGENT: schedule_of(config.schedule), **backends.schedules}
    findings = []
    for target in (AGENT, *(backend.id for backend in backends.usable)):
        schedule = schedules.get(target, schedule_of(None))
        state = availability(schedule, pauses.get(target), now)
        if not schedule.windows and state.pause is None:
            continue
        zone = schedule.zone if schedule.windows else None
        subject = ("schedule", target or "the agent")
        if state.open:
            at = state.schedule_changes_at
            details = "serves now" + ("" if at is None else f", until {time_text(at, zone)}")
            findings.append(Finding(*subject, Outcome.OK, details))
            continue
        advice = "wait, or change the schedule"
        if state.pause is not None:
            advice = f"`{f'provider-agent resume {target}'.rstrip()}`"
        details = f"does not serve now: {state.reason(zone)}"
        findings.append(Finding(*subject, Outcome.WARNING, details, advice))
    return findings
