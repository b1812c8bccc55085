"""Combines schedule and pause: may the agent, or one backend, serve at a moment, and when again?"""

from datetime import UTC, datetime, tzinfo
from typing import Annotated, Final

from msgspec import Meta, Struct

from provider_agent.agent.availability.schedule import DAYS, Schedule

MAX_UNTIL: Final = 10_000_000_000
"""The latest end of a pause as POSIX time, in the year 2286: calendars must be able to show it."""


class Pause(Struct, frozen=True):
    """A pause by hand.

    Attributes:
        until: its end as POSIX time; None: until the operator resumes.
    """

    until: Annotated[float, Meta(ge=0, le=MAX_UNTIL)] | None = None

    def covers(self, now: float) -> bool:
        """Whether the pause has not ended."""
        return self.until is None or now < self.until


class Availability(Struct, frozen=True, kw_only=True):
    """Whether schedule and pause allow serving at one moment. Times are POSIX times.

    Attributes:
        pause: the pause; None: not paused.
        scheduled: whether the schedule is open.
        schedule_changes_at: when the schedule opens or closes next; None: never.
        opens_at: when serving will be allowed again; None: it is allowed now, or the time is not
            known.
    """

    pause: Pause | None = None
    scheduled: bool = True
    schedule_changes_at: float | None = None
    opens_at: float | None = None

    @property
    def open(self) -> bool:
        """Whether serving is allowed."""
        return self.pause is None and self.scheduled

    @property
    def changes_at(self) -> float | None:
        """When any of this changes next without the operator; None: never."""
        until = None if self.pause is None else self.pause.until
        times = [time for time in (until, self.schedule_changes_at) if time is not None]
        return min(times, default=None)

    def reason(self, zone: tzinfo | None) -> str:
        """Return why serving is not allowed, with times in a time zone; "" if it is allowed.

        Args:
            zone: None is the machine's own.
        """
        reasons = []
        if self.pause is not None:
            until = self.pause.until
            reasons.append("paused" if until is None else f"paused until {time_text(until, zone)}")
        if not self.scheduled:
            at = self.schedule_changes_at
            when = "" if at is None else f" until {time_text(at, zone)}"
            reasons.append(f"outside its schedule{when}")
        return ", and ".join(reasons)


def availability(schedule: Schedule, pause: Pause | None, now: float) -> Availability:
    """Return the availability at a POSIX time; a pause that has ended does not count."""
    if pause is not None and not pause.covers(now):
        pause = None
    state = schedule.state(now)
    return Availability(
        pause=pause,
        scheduled=state.open,
        schedule_changes_at=state.changes_at,
        opens_at=None if pause is None and state.open else _next_opening(schedule, pause, now),
    )


def _next_opening(schedule: Schedule, pause: Pause | None, now: float) -> float | None:
    if pause is not None:
        if pause.until is None:
            return None
        now = pause.until
    state = schedule.state(now)
    return now if state.open else state.changes_at


def time_text(time: float, zone: tzinfo | None) -> str:
    """Return a POSIX time for people, such as `Mon 2026-06-01 18:00 +02:00`.

    Args:
        time: the time.
        zone: None is the machine's own time zone.
    """
    local = datetime.fromtimestamp(time, UTC).astimezone(zone)
    return f"{DAYS[local.weekday()].title()} {local:%Y-%m-%d %H:%M} {local.isoformat()[-6:]}"


def iso_time(time: float | None, zone: tzinfo | None) -> str | None:
    """Return a POSIX time as ISO 8601 with offset, to the second; None for None."""
    if time is None:
        return None
    return datetime.fromtimestamp(time, UTC).astimezone(zone).isoformat(timespec="seconds")
