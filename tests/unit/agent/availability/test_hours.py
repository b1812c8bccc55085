"""Changes of schedules, pauses and the clock are noticed, logged and reported."""

import asyncio
from datetime import UTC, datetime

import pytest

from provider_agent.agent.availability import hours as hours_module
from provider_agent.agent.availability.availability import (
    Availability,
    Pause,
    availability,
    time_text,
)
from provider_agent.agent.availability.hours import AGENT, ServingHours
from provider_agent.agent.availability.schedule import Schedule, Window
from tests.kit.virtual_time import in_virtual_time, now

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp()
SHORT = Schedule((Window(frozenset(range(7)), 12 * 60 + 1, 12 * 60 + 2),), UTC)
SOON = "Mon 2026-06-01 12:01 +00:00"


class Hours:
    """Serving hours from noon on, in virtual time, and what they have reported."""

    def __init__(self, schedule: Schedule, backends: dict[str, Schedule] | None = None) -> None:
        created_at = now()
        self.jump_s = 0.0
        self.reported: list[frozenset[str]] = []
        self.hours = ServingHours(
            schedule,
            backends or {},
            on_backends=self.reported.append,
            wall_clock=lambda: NOON + now() - created_at + self.jump_s,
        )


@in_virtual_time
async def test_events_follow_the_schedule() -> None:
    began, state = now(), Hours(SHORT)
    task = asyncio.create_task(state.hours.run())
    await state.hours.closed.wait()
    await state.hours.opened.wait()
    assert now() - began == pytest.approx(60)
    assert not state.hours.closed.is_set()
    await state.hours.closed.wait()
    assert now() - began == pytest.approx(120)
    assert not state.hours.opened.is_set()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@in_virtual_time
async def test_clock_that_is_set_back_closes_again() -> None:
    state = Hours(SHORT)
    state.jump_s = 90
    state.hours.check()
    assert state.hours.opened.is_set()
    state.jump_s = 0
    state.hours.check()
    assert state.hours.closed.is_set()


@in_virtual_time
async def test_backends_are_reported_only_when_they_change() -> None:
    state = Hours(Schedule(), {"a": SHORT})
    state.hours.check()
    state.hours.check()
    assert state.reported == [frozenset({"a"})]
    state.hours.pauses["b"] = Pause(NOON + 30)
    state.hours.check()
    assert state.reported[-1] == {"a", "b"}
    state.jump_s = 70
    state.hours.check()
    assert state.reported[-1] == frozenset()
    assert state.hours.of().open


@in_virtual_time
async def test_changes_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    state = Hours(SHORT, {"a": SHORT})
    for _ in range(3):
        state.hours.check()
    state.jump_s = 60
    for _ in range(3):
        state.hours.check()
    assert caplog.messages == [
        "agent does not serve",
        "backend does not serve",
        "agent serves again",
        "backend serves again",
    ]


@pytest.mark.parametrize(
    ("schedule", "pause", "reason", "opens_in_s"),
    [
        (Schedule(), None, "", None),
        (Schedule(), Pause(), "paused", None),
        (Schedule(), Pause(NOON + 60), "paused until Mon 2026-06-01 12:01 +00:00", 60),
        (Schedule(), Pause(NOON), "", None),  # it has ended
        (SHORT, None, "outside its schedule until Mon 2026-06-01 12:01 +00:00", 60),
        (
            SHORT,
            Pause(NOON + 90),
            f"paused until {SOON}, and outside its schedule until {SOON}",
            90,
        ),
        (
            SHORT,
            Pause(),
            f"paused, and outside its schedule until {SOON}",
            None,
        ),
    ],
)
def test_reason_and_next_opening(
    schedule: Schedule, pause: Pause | None, reason: str, opens_in_s: float | None
) -> None:
    state = availability(schedule, pause, NOON)
    assert state.reason(UTC) == reason
    assert state.open is (reason == "")
    assert state.opens_at == (None if opens_in_s is None else NOON + opens_in_s)


def test_time_in_the_zone_of_the_machine_has_an_offset() -> None:
    assert time_text(NOON, UTC) == "Mon 2026-06-01 12:00 +00:00"
    assert time_text(NOON, None)[-6] in "+-"


@in_virtual_time
async def test_schedule_is_computed_only_when_it_may_have_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computed: list[float] = []

    def count(schedule: Schedule, pause: Pause | None, at: float) -> Availability:
        computed.append(at - NOON)
        return availability(schedule, pause, at)

    monkeypatch.setattr(hours_module, "availability", count)
    state = Hours(SHORT)
    for second in (0, 30, 59, 60, 119, 120, 180):
        state.jump_s = second
        state.hours.check()
    assert computed == pytest.approx([0, 60, 120])
    state.hours.pauses[AGENT] = Pause(NOON + 200)
    for second in (180, 199, 201, 100):  # the last: the clock was set back
        state.jump_s = second
        state.hours.check()
    assert computed == pytest.approx([0, 60, 120, 180, 201, 100])
    state.hours.replace(Schedule(), {})
    assert state.hours.of().schedule_changes_at is None
