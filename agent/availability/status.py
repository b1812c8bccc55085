"""The part of the status about schedules and pauses."""

from typing import Final

from msgspec import Struct

from provider_agent.agent.availability.availability import iso_time
from provider_agent.agent.availability.hours import AGENT, ServingHours


class AvailabilityStatus(Struct, frozen=True, kw_only=True):
    """Whether schedule and pause let the agent, or one backend, serve now.

    Times are ISO 8601 with offset.

    Attributes:
        open: whether both do.
        reason: why not, for the operator; None if `open`.
        opens_at: when it serves again; None: it serves now, or the time is not known.
        paused: whether the operator has paused it.
        paused_until: the end of the pause; None: until `resume`.
        scheduled: whether the schedule is open; without a schedule it is.
        schedule_changes_at: when the schedule opens or closes next; None: never.
    """

    open: bool = True
    reason: str | None = None
    opens_at: str | None = None
    paused: bool = False
    paused_until: str | None = None
    scheduled: bool = True
    schedule_changes_at: str | None = None


ALWAYS_OPEN: Final = AvailabilityStatus()


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
