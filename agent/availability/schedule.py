"""Decides whether a schedule of weekly windows is open at a moment, and when that changes.

A window belongs to the day of its start; one whose end is not after its start ends the next day.
Windows are in local time. Where the clocks change:

- A local time that exists twice counts at its first occurrence.
- A local time that does not exist counts at the moment when the clocks go forward. A window inside
  the skipped time does not open on that day.

Windows may overlap; they are then one.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final

from msgspec import Struct

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
"""The names of the days, in the order of `date.weekday()`."""

_DAY_MIN: Final = 24 * 60

_DAYS_BEFORE: Final = 2
"""Days before today whose windows may still be open: one that started yesterday, in a zone whose
date has changed meanwhile."""

_DAYS_AFTER: Final = 16
"""Days after today that are searched for the next change: two weeks, because a weekly window may
lie in the skipped time of one week."""


class Window(Struct, frozen=True):
    """The same time on some days of every week.

    Attributes:
        days: the days on which it starts: 0 is Monday.
        start_min: local minutes after midnight.
        end_min: local minutes after midnight, not included; an end that is not after the start is
            on the next day.
    """

    days: frozenset[int]
    start_min: int
    end_min: int


class ScheduleState(Struct, frozen=True):
    """A schedule at one moment.

    Attributes:
        open: whether the schedule allows serving.
        changes_at: the POSIX time of the next change; None: never.
    """

    open: bool
    changes_at: float | None = None


class Schedule(Struct, frozen=True):
    """Weekly windows; without any, the schedule is always open.

    Attributes:
        windows: the windows.
        zone: the time zone of their times.
    """

    windows: tuple[Window, ...] = ()
    zone: tzinfo = UTC

    def state(self, now: float) -> ScheduleState:
        """Return the state at a POSIX time."""
        if not self.windows:
            return ScheduleState(True)
        today = datetime.fromtimestamp(now, self.zone).date()
        end_of_search = _instant(today + timedelta(_DAYS_AFTER - 2), 0, self.zone)
        for start, end in _merged(self._openings(today)):
            if now < start:
                return ScheduleState(False, start)
            if now < end:
                return ScheduleState(True, end if end < end_of_search else None)
        return ScheduleState(False)

    def _openings(self, today: date) -> Iterator[tuple[float, float]]:
        """Yield start and end of each opening around a day, in no order."""
        for offset in range(-_DAYS_BEFORE, _DAYS_AFTER):
            day = today + timedelta(offset)
            for window in self.windows:
                if day.weekday() in window.days:
                    overnight = _DAY_MIN if window.end_min <= window.start_min else 0
                    start = _instant(day, window.start_min, self.zone)
                    yield start, _instant(day, window.end_min + overnight, self.zone)


def _merged(openings: Iterable[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Yield the openings in order, overlapping and adjacent ones as one, without empty ones."""
    merged: tuple[float, float] | None = None
    for start, end in sorted(opening for opening in openings if opening[0] < opening[1]):
        if merged is None:
            merged = start, end
        elif start <= merged[1]:
            merged = merged[0], max(merged[1], end)
        else:
            yield merged
            merged = start, end
    if merged is not None:
        yield merged


def _instant(day: date, minutes: int, zone: tzinfo) -> float:
    """Return the first POSIX time at which local clocks show at least this time of this day."""
    local = datetime.combine(day, time()) + timedelta(minutes=minutes)
    found = local.replace(tzinfo=zone).timestamp()
    if _wall(found, zone) == local:
        return found
    # The time is skipped. PEP 495: `fold` selects the offset before or after the change, which
    # places the result after or before it.
    before, after = local.replace(tzinfo=zone, fold=1).timestamp(), found
    while after - before > 1:
        middle = (before + after) // 2
        if _wall(middle, zone) < local:
            before = middle
        else:
            after = middle
    return after


def _wall(instant: float, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(instant, zone).replace(tzinfo=None)
