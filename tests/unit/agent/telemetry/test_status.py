import pytest
from msgspec.structs import replace

from provider_agent.agent.telemetry.status import BackendStatus, StatusSnapshot, readiness

HEALTHY = BackendStatus(id="vllm:http://gpu:8000", kind="vllm", healthy=True, models=1)
UNHEALTHY = BackendStatus(id="venice", kind="venice", healthy=False, last_error="key refused")
READY = StatusSnapshot(
    version="1",
    uptime_s=1.0,
    link="connected",
    coordinator_url="wss://c.example/x",
    backends=[HEALTHY, UNHEALTHY],
)


def test_connected_agent_with_a_healthy_backend_is_ready() -> None:
    assert readiness(READY) == []


@pytest.mark.parametrize(
    ("state", "reasons"),
    [
        (replace(READY, draining=True), ["draining: "]),
        (replace(READY, coordinator_draining=True), ["coordinator draining: "]),
        (
            replace(READY, link="connecting"),
            ["not connected: the link to wss://c.example/x is connecting"],
        ),
        (
            replace(READY, link="waiting", last_disconnect="unknown enrollment code"),
            ["not connected: the link to wss://c.example/x is waiting (unknown enrollment code)"],
        ),
        (replace(READY, backends=[]), ["no backend: "]),
        (replace(READY, backends=[UNHEALTHY]), ["no healthy backend: venice: key refused"]),
        (
            replace(READY, backends=[replace(UNHEALTHY, last_error=None)]),
            ["no healthy backend: venice: no reason given"],
        ),
        (replace(READY, backends=[replace(HEALTHY, models=0), UNHEALTHY]), ["no model: "]),
        (
            replace(READY, draining=True, link="connecting", backends=[]),
            ["draining: ", "not connected: ", "no backend: "],
        ),
    ],
)
def test_each_reason_for_not_being_ready_is_listed(
    state: StatusSnapshot, reasons: list[str]
) -> None:
    found = readiness(state)
    assert len(found) == len(reasons)
    for reason, prefix in zip(found, reasons, strict=True):
        assert reason.startswith(prefix)
