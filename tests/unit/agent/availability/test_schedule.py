"""The schedule, against clocks that are read minute by minute."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider_agent.agent.availability.schedule import Schedule, ScheduleState, Window

EVERY_DAY = frozenset(range(7))
WORKDAYS = frozenset(range(5))
BERLIN = ZoneInfo("Europe/Berlin")
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",  # half an hour of daylight saving
    "Pacific/Apia",  # skipped a whole day in 2011
    "Africa/Casablanca",  # clocks change around Ramadan
    "America/St_Johns",  # clocks changed at 00:01 until 2011
)


def minutes(text: str) -> int:
    hours, _, rest = text.partition(":")
    return int(hours) * 60 + int(rest)


def window(start: str, end: str, days: frozenset[int] = EVERY_DAY) -> Window:
    return Window(days, minutes(start), minutes(end))


def at(text: str) -> float:
    """Return the POSIX time of a UTC time."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_no_window_is_always_open() -> None:
    assert Schedule().state(at("2026-03-01T12:00")) == ScheduleState(True, None)


@pytest.mark.parametrize(
    ("now", "open_now", "changes_at"),
    [
        ("2026-06-01T06:59:59", False, "2026-06-01T07:00"),  # a Monday, 08:59:59 in Berlin
        ("2026-06-01T07:00", True, "2026-06-01T15:00"),
        ("2026-06-01T14:59:59", True, "2026-06-01T15:00"),
        ("2026-06-01T15:00", False, "2026-06-02T07:00"),
        ("2026-06-05T15:00", False, "2026-06-08T07:00"),  # over the weekend
    ],
)
def test_window_on_workdays(now: str, open_now: bool, changes_at: str) -> None:
    schedule = Schedule((window("09:00", "17:00", WORKDAYS),), BERLIN)
    assert schedule.state(at(now)) == ScheduleState(open_now, at(changes_at))


@pytest.mark.parametrize(
    ("now", "open_now", "changes_at"),
    [
        ("2026-06-05T19:59", False, "2026-06-05T20:00"),
        ("2026-06-05T20:00", True, "2026-06-06T04:00"),
        ("2026-06-06T03:59", True, "2026-06-06T04:00"),  # Saturday, but Friday's window
        ("2026-06-06T20:00", False, "2026-06-12T20:00"),
    ],
)
def test_overnight_window_belongs_to_the_day_of_its_start(
    now: str, open_now: bool, changes_at: str
) -> None:
    schedule = Schedule((window("22:00", "06:00", frozenset({4})),), BERLIN)
    assert schedule.state(at(now)) == ScheduleState(open_now, at(changes_at))


def test_overlapping_and_adjacent_windows_are_one() -> None:
    windows = window("09:00", "12:00"), window("11:00", "15:00"), window("15:00", "16:00")
    schedule = Schedule(windows, UTC)
    assert schedule.state(at("2026-06-01T10:00")) == ScheduleState(True, at("2026-06-01T16:00"))


def test_windows_that_cover_the_week_never_change() -> None:
    schedule = Schedule((window("00:00", "24:00"),), BERLIN)
    assert schedule.state(at("2026-03-29T00:59")) == ScheduleState(True, None)
    schedule = Schedule((window("06:00", "18:00"), window("18:00", "06:00")), BERLIN)
    assert schedule.state(at("2026-03-29T00:59")) == ScheduleState(True, None)


# --- daylight saving: Berlin skips 02:00 to 03:00 on 2026-03-29 at 01:00 UTC, and repeats 02:00 to
# --- 03:00 on 2026-10-25 from 01:00 UTC on


def test_times_that_do_not_exist_count_when_the_clocks_go_forward() -> None:
    starts = Schedule((window("02:30", "05:00"),), BERLIN)
    assert starts.state(at("2026-03-29T00:59:59")) == ScheduleState(False, at("2026-03-29T01:00"))
    assert starts.state(at("2026-03-29T01:00")) == ScheduleState(True, at("2026-03-29T03:00"))
    ends = Schedule((window("01:00", "02:30"),), BERLIN)
    assert ends.state(at("2026-03-29T00:59:59")) == ScheduleState(True, at("2026-03-29T01:00"))
    assert ends.state(at("2026-03-29T01:00")) == ScheduleState(False, at("2026-03-29T23:00"))


def test_window_inside_the_skipped_time_does_not_open() -> None:
    schedule = Schedule((window("02:10", "02:50", frozenset({6})),), BERLIN)
    assert schedule.state(at("2026-03-28T12:00")) == ScheduleState(False, at("2026-04-05T00:10"))


def test_times_that_exist_twice_count_at_the_first_occurrence() -> None:
    schedule = Schedule((window("02:15", "02:45"),), BERLIN)
    assert schedule.state(at("2026-10-25T00:14")) == ScheduleState(False, at("2026-10-25T00:15"))
    assert schedule.state(at("2026-10-25T00:15")) == ScheduleState(True, at("2026-10-25T00:45"))
    # The second 02:30 is not in the window.
    assert schedule.state(at("2026-10-25T01:30")) == ScheduleState(False, at("2026-10-26T01:15"))


def test_day_of_25_hours_is_open_for_its_whole_window() -> None:
    schedule = Schedule((window("00:00", "24:00", frozenset({6})),), BERLIN)
    assert schedule.state(at("2026-10-24T22:00")) == ScheduleState(True, at("2026-10-25T23:00"))


def test_skipped_day_does_not_open() -> None:
    # Samoa had no 2011-12-30, a Friday.
    schedule = Schedule((window("09:00", "17:00", frozenset({4})),), ZoneInfo("Pacific/Apia"))
    assert schedule.state(at("2011-12-29T12:00")) == ScheduleState(False, at("2012-01-05T19:00"))


# --- against a simple model -----------------------------------------------------------------------


def model_is_open(windows: tuple[Window, ...], zone: ZoneInfo, now: datetime) -> bool:
    """Replay the clocks of the last days minute by minute.

    Each window opens in the first minute that shows its start or later, and closes in the first
    minute that shows its end or later.
    """
    first = now - timedelta(days=4)
    ticks = [first + timedelta(minutes=count) for count in range(4 * 24 * 60 + 1)]
    shown = [tick.astimezone(zone).replace(tzinfo=None) for tick in ticks]
    latest = []
    highest = shown[0]
    for clock in shown:
        highest = max(highest, clock)
        latest.append(highest)
    today = shown[-1].date()
    for days_ago in range(-1, 3):
        day = datetime.combine(today - timedelta(days=days_ago), datetime.min.time())
        for one in windows:
            end_min = one.end_min + (24 * 60 if one.end_min <= one.start_min else 0)
            start, end = day + timedelta(minutes=one.start_min), day + timedelta(minutes=end_min)
            if day.weekday() in one.days and start <= latest[-1] < end:
                return True
    return False


windows_of_a_week = st.lists(
    st.builds(
        Window,
        st.frozensets(st.integers(0, 6), min_size=1),
        st.integers(0, 24 * 60 - 1),
        st.integers(1, 24 * 60),
    ).filter(lambda one: one.start_min != one.end_min),
    min_size=1,
    max_size=3,
).map(tuple)

changes_of_clocks = st.sampled_from(
    [
        at("2026-03-29T01:00"),
        at("2026-10-25T01:00"),
        at("2026-03-08T07:00"),
        at("2026-11-01T06:00"),
        at("2026-04-04T15:00"),
        at("2026-10-03T15:30"),
        at("2026-02-15T02:00"),
        at("2011-12-30T10:00"),
        at("2011-03-13T03:31"),
        at("2010-11-07T02:31"),
    ]
)
moments = st.builds(
    lambda base, offset: base + 60 * offset, changes_of_clocks, st.integers(-3 * 1440, 3 * 1440)
)


@settings(max_examples=25, deadline=None)
@given(windows_of_a_week, st.sampled_from(ZONES), moments)
def test_open_as_clocks_that_are_read_every_minute(
    windows: tuple[Window, ...], zone_name: str, now: float
) -> None:
    zone = ZoneInfo(zone_name)
    expected = model_is_open(windows, zone, datetime.fromtimestamp(now, UTC))
    assert Schedule(windows, zone).state(now).open is expected


@settings(max_examples=60, deadline=None)
@given(windows_of_a_week, st.sampled_from(ZONES), moments)
def test_next_change_is_the_next_moment_with_another_state(
    windows: tuple[Window, ...], zone_name: str, now: float
) -> None:
    schedule = Schedule(windows, ZoneInfo(zone_name))
    state = schedule.state(now)
    if state.changes_at is None:
        changes = [now + 3600 * hours for hours in range(14 * 24)]
        assert {schedule.state(later).open for later in changes} == {state.open}
        return
    assert state.changes_at > now
    assert schedule.state(state.changes_at).open is not state.open
    for share in (0.1, 0.5, 0.9):
        between = now + share * (state.changes_at - now)
        assert schedule.state(between) == state
    assert schedule.state(state.changes_at - 0.5) == state
