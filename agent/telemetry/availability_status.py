"""The part of the status about schedules and pauses."""

from provider_agent.agent.availability.availability import iso_time
from provider_agent.agent.availability.hours import AGENT, ServingHours
from provider_agent.agent.telemetry.status import AvailabilityStatus


def availability_status(hours: ServingHours, target: str = AGENT) -> AvailabilityStatus:
    """Return whether the agent, or a backend by its id, may serve now."""
    state, zone = hours.of(target), hours.zone(target)
    return AvailabilityStatus(
        open=state.open,
        reason=state.reason(zone) or None,
        opens_at=hours.opens_at(target),
        paused=state.pause is not None,
        paused_until=iso_time(state.pause.until if state.pause else None, zone),
        scheduled=state.scheduled,
        schedule_changes_at=iso_time(state.schedule_changes_at, zone),
    )
