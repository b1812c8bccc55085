"""Validation of schedules, and their conversion to `Schedule`."""

import difflib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from provider_agent.agent.availability.schedule import DAYS, Schedule, Window
from provider_agent.agent.config.errors import ErrorCollector, InvalidValue, bad_value
from provider_agent.agent.config.schema import BackendConfig, ScheduleConfig, WindowConfig

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

_TIME: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)", re.ASCII)
_MIDNIGHT: Final = "24:00"
_SAMPLE_ZONE: Final = '"Europe/Berlin" or "UTC"'


def validate_schedule(config: ScheduleConfig, origins: Mapping[str, str]) -> None:
    """Check the agent's own schedule.

    Raises:
        ConfigError: it is not valid; the error names the first mistake.
    """
    _check(config, origins["schedule.windows"], origins["schedule.time_zone"], "schedule")


def validate_backend_schedules(
    backends: Mapping[int, BackendConfig], zone: str | None, origin: str, errors: ErrorCollector
) -> dict[int, BackendConfig]:
    """Return the backends whose schedules are valid, with their time zones set.

    Args:
        backends: the backends by their index, for error messages.
        zone: the time zone of the agent's schedule, which is the default.
        origin: the origin of the list of backends.
        errors: receives an error for each of the other backends.
    """
    checked = {}
    for index, backend in backends.items():
        with errors.collect():
            schedule = backend.schedule
            if schedule is not None:
                schedule = replace(schedule, time_zone=schedule.time_zone or zone)
                _check(schedule, origin, origin, f"backends[{index}].schedule")
            checked[index] = replace(backend, schedule=schedule)
    return checked


def schedule_of(config: ScheduleConfig | None) -> Schedule:
    """Return the schedule of valid settings; None is always open.

    Raises:
        InvalidValue: the time zone data has disappeared since the settings were checked.
    """
    if config is None or not config.windows:
        return Schedule()
    windows = tuple(_window(window) for window in config.windows)
    return Schedule(windows, _zone(config.time_zone or "UTC"))


def _check(config: ScheduleConfig, origin: str, zone_origin: str, key: str) -> None:
    for index, window in enumerate(config.windows):
        place = f"{key}.windows[{index}]"
        for day in window.days or ():
            if day not in DAYS:
                name = day.lower()[:3]
                advice = f'did you mean "{name}"?' if name in DAYS else f"write {', '.join(DAYS)}"
                raise bad_value(origin, f"{place}.days", f'unknown day "{day}"', advice)
        _check_time(window.start, origin, f"{place}.start", last="23:59")
        _check_time(window.end, origin, f"{place}.end", last=_MIDNIGHT)
        if window.start == window.end:
            reason = f"start and end are both {window.start}"
            advice = f'write start = "00:00" and end = "{_MIDNIGHT}" for the whole day'
            raise bad_value(origin, place, reason, advice)
    if config.time_zone is None:
        if config.windows:
            advice = f"set the time zone of the windows, such as {_SAMPLE_ZONE}"
            raise bad_value(origin, f"{key}.time_zone", "missing, while windows is set", advice)
        return
    try:
        _zone(config.time_zone)
    except InvalidValue as error:
        place = f"{key}.time_zone"
        raise bad_value(zone_origin, place, error.problem, error.advice) from error


def _check_time(text: str, origin: str, key: str, last: str) -> None:
    if not _TIME.fullmatch(text) and text != last:
        reason = f'expected a time from "00:00" to "{last}", got "{text}"'
        raise bad_value(origin, key, reason, 'write hours and minutes, such as "08:00"')


def _window(config: WindowConfig) -> Window:
    days = DAYS if config.days is None else config.days
    return Window(
        frozenset(DAYS.index(day) for day in days), _minutes(config.start), _minutes(config.end)
    )


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return 60 * int(hours) + int(minutes)


def _zone(name: str) -> "ZoneInfo":
    """Return a time zone.

    Raises:
        InvalidValue: no zone has this name, or the machine has no time zone data.
    """
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones  # rarely needed

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        known = available_timezones()
        if not known:
            raise InvalidValue(
                "this machine has no time zone data",
                "install the package tzdata with the system's package manager or with pip",
            ) from error
        raise InvalidValue(f'unknown time zone "{name}"', _zone_advice(name, known)) from error


def _zone_advice(name: str, known: set[str]) -> str:
    """Suggest a zone whose name or city is similar; a list of all has 600 names."""
    lower = {zone.lower(): zone for zone in sorted(known)}
    cities = {zone.lower().rpartition("/")[2]: zone for zone in sorted(known)}
    wanted = name.lower().replace(" ", "_")
    for names in (lower, cities):
        if close := difflib.get_close_matches(wanted, names, n=1, cutoff=0.8):
            return f'did you mean "{names[close[0]]}"?'
    return f"write a name of the time zone database, such as {_SAMPLE_ZONE}"
