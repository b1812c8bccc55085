import zoneinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from provider_agent.agent.availability.schedule import Schedule, Window
from provider_agent.agent.config.schedules import schedule_of
from tests.unit.agent.config.loading import MINIMAL, load, load_error

ZONE = 'time_zone = "Europe/Berlin"\n'


def schedule(windows: str, zone: str = ZONE) -> str:
    return f"{MINIMAL}[schedule]\n{zone}windows = [{windows}]\n"


def test_schedule_is_read(tmp_path: Path) -> None:
    text = schedule('{ days = ["fri", "sat"], start = "22:00", end = "06:30" }')
    assert schedule_of(load(tmp_path, text).config.schedule) == Schedule(
        (Window(frozenset({4, 5}), 1320, 390),), ZoneInfo("Europe/Berlin")
    )


def test_window_without_days_is_for_every_day(tmp_path: Path) -> None:
    found = schedule_of(
        load(tmp_path, schedule('{ start = "00:00", end = "24:00" }')).config.schedule
    )
    assert found.windows == (Window(frozenset(range(7)), 0, 1440),)


def test_overlapping_windows_are_accepted(tmp_path: Path) -> None:
    window = '{ start = "08:00", end = "12:00" }'
    assert len(load(tmp_path, schedule(f"{window}, {window}")).config.schedule.windows) == 2


def test_without_windows_the_agent_always_serves(tmp_path: Path) -> None:
    assert schedule_of(load(tmp_path).config.schedule) == Schedule()
    assert schedule_of(load(tmp_path, f"{MINIMAL}[schedule]\n{ZONE}").config.schedule) == Schedule()


def test_backend_uses_the_time_zone_of_the_agent_by_default(tmp_path: Path) -> None:
    text = (
        f'{MINIMAL}[schedule]\n{ZONE}[[backends]]\nkind = "echo"\n'
        'schedule = { windows = [{ start = "08:00", end = "12:00" }] }\n'
        '[[backends]]\nkind = "vllm"\n[backends.schedule]\ntime_zone = "UTC"\n'
        '[[backends.schedule.windows]]\nstart = "08:00"\nend = "12:00"\n'
    )
    first, second = load(tmp_path, text).config.backends
    assert schedule_of(first.schedule).zone == ZoneInfo("Europe/Berlin")
    assert schedule_of(second.schedule).zone == ZoneInfo("UTC")


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        (
            '{ days = ["monday"], start = "08:00", end = "12:00" }',
            'schedule.windows[0].days: unknown day "monday"; did you mean "mon"?',
        ),
        (
            '{ days = ["so"], start = "08:00", end = "12:00" }',
            'schedule.windows[0].days: unknown day "so"; write mon, tue, wed, thu, fri, sat, sun',
        ),
        (
            '{ days = "mon", start = "08:00", end = "12:00" }',
            "schedule.windows[0].days: expected a list, got a string in quotes",
        ),
        (
            '{ days = [], start = "08:00", end = "12:00" }',
            "schedule.windows[0].days: expected a list",
        ),
        (
            '{ start = "8", end = "12:00" }',
            'expected a time from "00:00" to "23:59", got "8"; write hours and minutes, such as',
        ),
        ('{ start = "24:00", end = "12:00" }', 'from "00:00" to "23:59", got "24:00"'),
        ('{ start = "08:00", end = "24:01" }', 'end: expected a time from "00:00" to "24:00"'),
        ('{ start = "08:00", end = "0\u0668:00" }', 'end: expected a time from "00:00" to "24:00"'),
        ("{ start = 08:00:00, end = 12:00:00 }", "windows[0].start: expected a string in quotes"),
        ('{ start = "08:00" }', "schedule.windows[0]: end is missing"),
        (
            '{ start = "08:00", end = "08:00" }',
            "schedule.windows[0]: start and end are both 08:00; write",
        ),
        ('{ start = "08:00", ends = "1" }', 'windows[0].ends: unknown key; did you mean "end"?'),
        ('"08:00-12:00"', "schedule.windows[0]: expected a table, got a string in quotes"),
    ],
)
def test_mistake_in_a_window(tmp_path: Path, windows: str, message: str) -> None:
    assert message in load_error(tmp_path, schedule(windows))


@pytest.mark.parametrize(
    ("zone", "message"),
    [
        ("", "schedule.time_zone: missing, while windows is set; set the time zone of"),
        (
            'time_zone = "Europe/Berln"\n',
            'unknown time zone "Europe/Berln"; did you mean "Europe/Berlin"?',
        ),
        ('time_zone = "europe/berlin"\n', 'did you mean "Europe/Berlin"?'),
        ('time_zone = "New York"\n', 'did you mean "America/New_York"?'),
        (
            'time_zone = "Mars"\n',
            'unknown time zone "Mars"; write a name of the time zone database',
        ),
        ('time_zone = "../../etc/passwd"\n', "unknown time zone"),
        ('time_zone = "Europe"\n', "unknown time zone"),
    ],
)
def test_mistake_in_the_time_zone(tmp_path: Path, zone: str, message: str) -> None:
    error = load_error(tmp_path, schedule('{ start = "08:00", end = "12:00" }', zone))
    assert error.startswith("agent.toml: schedule.time_zone: ")
    assert message in error


def test_one_window_without_brackets(tmp_path: Path) -> None:
    text = f'{MINIMAL}[schedule]\n{ZONE}windows = {{ start = "08:00", end = "12:00" }}\n'
    assert "expected a list of tables, got one table; write [{ start" in load_error(tmp_path, text)


def test_mistake_in_the_schedule_of_a_backend(tmp_path: Path) -> None:
    window = '{ start = "08:00", end = "12:00" }'
    text = f'{MINIMAL}[[backends]]\nkind = "echo"\nschedule = {{ windows = [{window}] }}\n'
    expected = "agent.toml: backends[0].schedule.time_zone: missing, while windows is set"
    assert load_error(tmp_path, text).startswith(expected)
    text = f'{MINIMAL}[[backends]]\nkind = "echo"\nschedule = {{ window = [{window}] }}\n'
    assert "backends[0].schedule.window: unknown key; did you mean" in load_error(tmp_path, text)
    text = f'{MINIMAL}[[backends]]\nkind = "echo"\nschedule = "08:00"\n'
    assert "backends[0].schedule: expected a table" in load_error(tmp_path, text)


def test_variable_with_windows(tmp_path: Path) -> None:
    environ = {
        "PROVIDER_AGENT_SCHEDULE_TIME_ZONE": "UTC",
        "PROVIDER_AGENT_SCHEDULE_WINDOWS": '[{"start": "08:00", "end": "8"}]',
    }
    error = load_error(tmp_path, MINIMAL, environ)
    expected = (
        "environment PROVIDER_AGENT_SCHEDULE_WINDOWS: schedule.windows[0].end: expected a time"
    )
    assert error.startswith(expected)


def test_missing_time_zone_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoneinfo, "available_timezones", set)

    def missing(name: str) -> None:
        raise zoneinfo.ZoneInfoNotFoundError(name)

    monkeypatch.setattr(zoneinfo, "ZoneInfo", missing)
    error = load_error(tmp_path, schedule('{ start = "08:00", end = "12:00" }'))
    assert error == (
        "agent.toml: schedule.time_zone: this machine has no time zone data; install the package "
        "tzdata with the system's package manager or with pip"
    )
