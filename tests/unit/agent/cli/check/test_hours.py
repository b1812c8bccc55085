from datetime import UTC, datetime
from pathlib import Path

from provider_agent.agent.availability.availability import Pause
from provider_agent.agent.availability.schedule import Schedule, Window
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.cli.check.findings import Finding, Outcome
from provider_agent.agent.cli.check.hours import check_hours
from provider_agent.agent.config import Config, ScheduleConfig, WindowConfig
from provider_agent.agent.control.pause_store import PauseStore
from tests.kit.agent_config import agent_config
from tests.kit.scripted_backend import ScriptedBackend, model

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp()
MORNING = Schedule((Window(frozenset(range(7)), 8 * 60, 11 * 60),), UTC)


def config(folder: Path, *windows: WindowConfig) -> Config:
    schedule = ScheduleConfig(time_zone="UTC", windows=windows)
    return agent_config("wss://c.example", key_path=folder / "key", schedule=schedule)


def check(config: Config, backends: Backends | None = None) -> list[Finding]:
    return check_hours(config, backends or Backends([]), lambda: NOON)


def test_no_row_without_schedule_and_pause(tmp_path: Path) -> None:
    assert check(config(tmp_path)) == []


def test_open_schedule_passes(tmp_path: Path) -> None:
    assert check(config(tmp_path, WindowConfig(start="08:00", end="18:00"))) == [
        Finding(
            "schedule", "the agent", Outcome.OK, "serves now, until Mon 2026-06-01 18:00 +00:00"
        )
    ]


def test_closed_schedule_is_a_warning(tmp_path: Path) -> None:
    (found,) = check(config(tmp_path, WindowConfig(start="18:00", end="08:00")))
    assert found.outcome is Outcome.WARNING
    assert found.details == (
        "does not serve now: outside its schedule until Mon 2026-06-01 18:00 +00:00"
    )
    assert found.what_to_do == "wait, or change the schedule"


def test_pauses_and_schedules_of_backends(tmp_path: Path) -> None:
    PauseStore(tmp_path / "key").save({"": Pause(), "a": Pause()})
    backends = Backends(
        [ScriptedBackend("a", model("m")), ScriptedBackend("b", model("m"))],
        schedules={"b": MORNING},
    )
    agent, first, second = check(config(tmp_path), backends)
    assert (agent.target, agent.details) == ("the agent", "does not serve now: paused")
    assert agent.what_to_do == "`provider-agent resume`"
    assert (first.target, first.what_to_do) == ("a", "`provider-agent resume a`")
    assert second.details.endswith("outside its schedule until Tue 2026-06-02 08:00 +00:00")
