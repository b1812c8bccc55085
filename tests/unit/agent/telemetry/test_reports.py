import pytest

from provider_agent.adapters.base import BackendHealth, Unreachable
from provider_agent.agent.availability.hours import ServingHours
from provider_agent.agent.availability.schedule import Schedule
from provider_agent.agent.backends.configured import Backends, SkippedBackend
from provider_agent.agent.backends.discovery import Discovery
from provider_agent.agent.backends.routing import RefusalReason
from provider_agent.agent.config import LimitsConfig
from provider_agent.agent.jobs.job_record import JobRecord
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.jobs.running import Jobs
from provider_agent.agent.link.coordinator_messages import CoordinatorMessages
from provider_agent.agent.telemetry.job_history import JobHistory
from provider_agent.agent.telemetry.metrics import JobKey, Metrics
from provider_agent.agent.telemetry.remedies import REMEDIES
from provider_agent.agent.telemetry.reports import Reports, count_job
from provider_agent.agent.telemetry.rolling_stats import RollingStats, StatsSnapshot
from provider_agent.agent.telemetry.status import (
    BackendStatus,
    RefusedJobStatus,
    StatusSnapshot,
    Totals,
)
from provider_agent.protocol.frames import (
    BackendLoad,
    Heartbeat,
    JobEnd,
    JobError,
    JobResult,
    ModelLoad,
    ModelOffer,
    Usage,
)
from tests.kit.agent_config import agent_config
from tests.kit.discovery_harness import find_monitor
from tests.kit.fake_clock import FakeClock
from tests.kit.jobs import new_job, submit_job
from tests.kit.scripted_backend import ScriptedBackend, model

JOB_ID = b"j" * 16
URL = "wss://c.example/provider/connect"


class ReportsHarness:
    """`Reports` with two scripted backends, one of them down."""

    def __init__(self) -> None:
        self.clock = FakeClock(500.0)
        self.up = ScriptedBackend("up", model("m"), model("n"), max_concurrent=2)
        self.down = ScriptedBackend("down", max_concurrent=5)
        self.down.reported_health = BackendHealth(False, None, "connection refused")
        self.discovery = Discovery(
            Backends([self.up, self.down], {}, []), lambda: None, clock=self.clock
        )
        self.stats = RollingStats(self.clock)
        self.metrics = Metrics(self.clock)
        self.history = JobHistory(self.clock)
        self.messages = CoordinatorMessages(self.metrics.notice_received, self.clock)
        self.jobs = Jobs(self.discovery, Outbox(), 4, lambda _record: None, self.clock)
        skipped = [SkippedBackend("venice", "venice", "KEY is not set")]
        config = agent_config(URL, limits=LimitsConfig(max_concurrent=4))
        self.reports = Reports(
            config,
            skipped,
            self.discovery,
            self.jobs,
            self.stats,
            self.metrics,
            self.history,
            ServingHours(Schedule(), on_backends=self.discovery.suspend),
            self.clock,
        )

    def connected_status(self) -> StatusSnapshot:
        """Return the status while the agent is connected."""
        return self.reports.status(
            url=URL,
            link="connected",
            welcomed_at=0.0,
            last_disconnect=None,
            messages=self.messages,
            draining=False,
        )


async def test_heartbeat_of_an_idle_agent_has_no_statistics() -> None:
    assert ReportsHarness().reports.heartbeat() == Heartbeat(
        0,
        0,
        4,
        None,
        None,
        None,
        None,
        [BackendLoad("up", False, 0, 2), BackendLoad("down", False, 0, 5)],
    )


async def test_heartbeat_reports_load_and_health_of_each_backend() -> None:
    harness = ReportsHarness()
    await harness.discovery.check_all()
    submit_job(harness.jobs, new_job("m"))
    submit_job(harness.jobs, new_job("n"))
    run = await harness.up.next_run()
    run.start()
    run.send(b"x")
    beat = harness.reports.heartbeat()
    assert (beat.in_flight, beat.queued, beat.capacity) == (2, 1, 4)
    models = [ModelLoad("n", "", 1), ModelLoad("m", "", 1)]
    assert beat.backends == [
        BackendLoad("up", True, 2, 2, models=models),
        BackendLoad("down", False, 0, 5),
    ]
    run.finish()
    (await harness.up.next_run()).answer()
    await harness.jobs.wait_until_idle()
    assert harness.reports.heartbeat().backends[0].in_flight == 0


async def test_status_reports_the_link_the_load_and_every_backend() -> None:
    harness = ReportsHarness()
    await harness.discovery.check_all()
    harness.clock.now += 60
    submit_job(harness.jobs, new_job("unknown"))
    harness.clock.now += 5
    state = harness.reports.status(
        url=f"{URL}?key=secret",
        link="connecting",
        welcomed_at=555.0,
        last_disconnect="busy",
        messages=harness.messages,
        draining=True,
    )
    assert (state.link, state.last_disconnect) == ("connecting", "busy")
    assert state.coordinator_url == f"{URL}?[set]"
    assert (state.uptime_s, state.last_welcome_age_s, state.last_job_age_s) == (65.0, 10.0, 5.0)
    assert (state.draining, state.in_flight, state.capacity) == (True, 0, 4)
    assert state.stats == StatsSnapshot()
    assert state.backends == [
        BackendStatus(id="up", kind="scripted", healthy=True, latency_ms=1.0, models=2, capacity=2),
        BackendStatus(
            id="down", kind="scripted", healthy=False, last_error="connection refused", capacity=5
        ),
        BackendStatus(
            id="venice", kind="venice", healthy=False, last_error="skipped: KEY is not set"
        ),
    ]


async def test_status_shows_a_backend_with_an_open_breaker_as_unhealthy() -> None:
    # In an earlier version, the status showed such a backend as healthy while it received no jobs.
    harness = ReportsHarness()
    await harness.discovery.check_all()
    for number in range(5):
        attempt = find_monitor(harness.discovery, "up").start("m")
        attempt.failed(Unreachable("refused"), request=number)

    def first_backend() -> BackendStatus:
        state = harness.connected_status()
        return state.backends[0]

    assert first_backend() == BackendStatus(
        id="up",
        kind="scripted",
        healthy=False,
        latency_ms=1.0,
        last_error="its breaker is open: no jobs for 10 s; see the log for its errors",
        models=2,
        capacity=2,
    )
    harness.clock.now += 10
    assert (first_backend().healthy, first_backend().last_error) == (True, None)


async def test_ages_are_none_before_the_first_welcome_and_job() -> None:
    harness = ReportsHarness()
    state = harness.reports.status(
        url=URL,
        link="starting",
        welcomed_at=None,
        last_disconnect=None,
        messages=harness.messages,
        draining=False,
    )
    assert (state.last_welcome_age_s, state.last_job_age_s) == (None, None)


def new_job_error(code: str) -> JobError:
    return JobError(JOB_ID, 5, code, "no", backend_id="" if code == "model_not_loaded" else "b")


@pytest.mark.parametrize(
    ("end", "kind", "first_byte_s", "error_rate", "labels"),
    [
        (
            JobResult(JOB_ID, 5, Usage(3, 4), "b", 20, 10),
            "vllm",
            0.01,
            0.0,
            ("ok", "openai", "b", "vllm", "m"),
        ),
        (
            JobResult(JOB_ID, 5, Usage(None, None), "b", 20, None),
            "vllm",
            None,
            0.0,
            ("ok", "openai", "b", "vllm", "m"),
        ),
        (
            new_job_error("backend_error"),
            "vllm",
            None,
            1.0,
            ("backend_error", "openai", "b", "vllm", "m"),
        ),
        (new_job_error("cancelled"), "vllm", None, 0.0, ("cancelled", "openai", "b", "vllm", "m")),
        (
            new_job_error("model_not_loaded"),
            "",
            None,
            0.0,
            ("model_not_loaded", "openai", "none", "none", "other"),
        ),
    ],
)
async def test_ended_job_is_counted_in_statistics_and_metrics(
    end: JobEnd,
    kind: str,
    first_byte_s: float | None,
    error_rate: float,
    labels: JobKey,
) -> None:
    harness = ReportsHarness()
    model_id = "m" if kind else ""
    record = JobRecord("openai", kind, end, first_byte_s, model_id=model_id)
    count_job(record, harness.stats, harness.metrics, harness.history)
    snapshot = harness.stats.snapshot()
    assert snapshot.error_rate == error_rate
    assert snapshot.first_byte_p50_ms == (None if first_byte_s is None else first_byte_s * 1000)
    ((counted, totals),) = harness.metrics.jobs.items()
    assert (counted, totals.jobs, totals.relayed_bytes) == (labels, 1, 5)


async def test_status_shows_offers_waiting_jobs_refusals_and_earnings() -> None:
    harness = ReportsHarness()
    await harness.discovery.check_all()
    harness.jobs.set_prices([ModelOffer("m", [], [], None, True, "vllm", 1, 1_000_000, 2_000_000)])
    submit_job(harness.jobs, new_job("m"))
    result = JobResult(JOB_ID, 5, Usage(3, 4), "up", 20, 10, 1_000_000, 2_000_000)
    for record in (
        JobRecord("openai", "scripted", result, 0.01, model_id="m"),
        JobRecord(
            "openai", "", new_job_error("draining"), None, 0, "m", refusal=RefusalReason.DRAINING
        ),
    ):
        count_job(record, harness.stats, harness.metrics, harness.history)
    harness.clock.now += 7
    state = harness.connected_status()
    assert state.offered == ["m"]
    assert (state.backends[0].running, state.backends[0].queued) == (1, 1)
    assert state.totals == Totals(
        jobs={"ok": 1, "draining": 1}, refusals={"draining": 1}, earned={"m": 11}
    )
    assert state.last_refusals == [
        RefusedJobStatus(
            reason="draining", model_id="m", age_s=7.0, remedy=REMEDIES[RefusalReason.DRAINING]
        )
    ]
    (await harness.up.next_run()).answer()
    await harness.jobs.wait_until_idle()
