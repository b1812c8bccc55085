import pytest
from msgspec.structs import replace

from provider_agent.agent.telemetry.status import BackendStatus, StatusSnapshot, readiness

HEALTHY = BackendStatus(id="vllm:http://gpu:8000", kind="vllm", healthy=True, models=1)
SICK = BackendStatus(id="venice", kind="venice", healthy=False, last_error="key refused")
READY = StatusSnapshot(
    version="1",
    uptime_s=1.0,
    link="connected",
    coordinator_url="wss://c.example/x",
    backends=[HEALTHY, SICK],
)


def test_welcomed_with_a_healthy_backend_is_ready() -> None:
    assert readiness(READY) == []


@pytest.mark.parametrize(
    ("state", "reasons"),
    [
        (replace(READY, draining=True), ["draining: "]),
        (
            replace(READY, link="connecting"),
            ["not connected: the link to wss://c.example/x is connecting"],
        ),
        (
            replace(READY, link="waiting", last_rejection="unknown enrolment code"),
            ["not connected: the link to wss://c.example/x is waiting (unknown enrolment code)"],
        ),
        (replace(READY, backends=[]), ["no backend: "]),
        (replace(READY, backends=[SICK]), ["no healthy backend: venice: key refused"]),
        (
            replace(READY, backends=[replace(SICK, last_error=None)]),
            ["no healthy backend: venice: not checked yet"],
        ),
        (replace(READY, backends=[replace(HEALTHY, models=0), SICK]), ["no model: "]),
        (
            replace(READY, draining=True, link="connecting", backends=[]),
            ["draining: ", "not connected: ", "no backend: "],
        ),
    ],
)
def test_every_reason_not_to_be_ready_is_named(state: StatusSnapshot, reasons: list[str]) -> None:
    found = readiness(state)
    assert len(found) == len(reasons)
    for reason, beginning in zip(found, reasons, strict=True):
        assert reason.startswith(beginning)
