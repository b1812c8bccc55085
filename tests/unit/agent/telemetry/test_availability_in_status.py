"""Schedules and pauses in the text of `status`, in readiness and in the metrics."""

import io

from msgspec.structs import replace
from rich.console import Console

from provider_agent.agent.availability.status import AvailabilityStatus
from provider_agent.agent.cli.status_text import status_parts
from provider_agent.agent.telemetry.metrics import Metrics
from provider_agent.agent.telemetry.metrics_page import MetricsPage
from provider_agent.agent.telemetry.status import (
    BackendStatus,
    StatusSnapshot,
    readiness,
)
from tests.kit.cli_agent import READY

PAUSED = AvailabilityStatus(open=False, reason="paused", paused=True)
NIGHT = AvailabilityStatus(
    open=False,
    reason="outside its schedule until Mon 2026-06-01 22:00 +02:00",
    opens_at="2026-06-01T22:00:00+02:00",
    scheduled=False,
)
BACKEND = BackendStatus(id="a", kind="echo", healthy=True, models=1)


def text(state: StatusSnapshot) -> str:
    console = Console(width=200, file=io.StringIO(), record=True)
    for part in status_parts(state):
        console.print(part)
    return console.export_text()


def test_text_shows_when_the_agent_serves_again() -> None:
    shown = text(replace(READY, availability=NIGHT, link="disconnected"))
    assert "no: outside its schedule until Mon 2026-06-01 22:00 +02:00" in shown
    assert "none: the agent does not serve now" in shown
    assert "not ready: not serving: outside its schedule" in shown
    assert "not connected" not in shown


def test_text_shows_the_pause_of_a_backend() -> None:
    state = replace(READY, backends=[BACKEND, replace(BACKEND, id="b", availability=PAUSED)])
    row = next(line for line in text(state).splitlines() if " b " in line)
    assert "paused" in row
    assert readiness(state) == []


def test_agent_without_a_serving_backend_is_not_ready() -> None:
    down = BackendStatus(id="b", kind="echo", healthy=False, last_error="refused")
    state = replace(READY, backends=[replace(BACKEND, availability=PAUSED), down])
    assert readiness(state) == ["no serving backend: a: paused"]


def test_gauges_show_pauses() -> None:
    state = replace(
        READY, availability=NIGHT, backends=[BACKEND, replace(BACKEND, id="b", availability=PAUSED)]
    )
    page = MetricsPage(Metrics(), lambda: state).render().decode()
    assert "\nprovider_agent_serving 0.0\n" in page
    assert '\nprovider_agent_backend_serving{backend="a",kind="echo"} 1.0\n' in page
    assert '\nprovider_agent_backend_serving{backend="b",kind="echo"} 0.0\n' in page
