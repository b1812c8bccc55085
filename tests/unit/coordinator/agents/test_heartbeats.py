from provider_agent.coordinator.agents.heartbeats import MAX_INTERVALS, LatestHeartbeat
from provider_agent.coordinator.agents.model_report import NO_REPORT
from provider_agent.protocol.frames import BackendLoad, Heartbeat, ModelLoad
from tests.kit.fake_clock import FakeClock


def test_an_old_heartbeat_reports_nothing() -> None:
    clock = FakeClock()
    latest = LatestHeartbeat(10.0, clock)
    assert (latest.report("tiny"), latest.age_s) == (NO_REPORT, None)

    load = BackendLoad("b", True, 0, 4, models=[ModelLoad("tiny", "cold", 0)])
    latest.receive(Heartbeat(0, 0, 4, None, None, None, None, [load]))
    clock.now += 10.0 * MAX_INTERVALS

    assert latest.report("tiny").is_cold
    assert latest.report("other") == NO_REPORT
    clock.now += 0.1
    assert latest.report("tiny") == NO_REPORT
