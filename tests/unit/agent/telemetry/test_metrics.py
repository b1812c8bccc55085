import asyncio
import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from provider_agent.agent.backends.routing import RefusalReason
from provider_agent.agent.jobs.job_record import JobRecord
from provider_agent.agent.link.coordinator_messages import Routing, UnroutableOffer
from provider_agent.agent.telemetry.loop_lag import INTERVAL_S, LoopLag
from provider_agent.agent.telemetry.metrics import MAX_PAIRS, MAX_REFUSALS, Metrics, ReloadResult
from provider_agent.agent.telemetry.metrics_page import MetricsPage
from provider_agent.agent.telemetry.status import BackendStatus, StatusSnapshot
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import JobEnd, JobError, JobResult, Usage
from tests.kit.fake_clock import FakeClock
from tests.kit.virtual_time import VirtualTimeLoop, in_virtual_time

STATUS = StatusSnapshot(version="1", uptime_s=1, link="connected", coordinator_url="")
JOB_ID = b"j" * 16
USAGE = Usage(10, 20)
JOBS = "provider_agent_jobs_total"
SERIES = 'backend="vllm:http://gpu",kind="vllm",model="m"'
DOCUMENT = Path(__file__).parents[4] / "docs" / "observability.md"


def render(metrics: Metrics, status: StatusSnapshot = STATUS) -> str:
    return MetricsPage(metrics, lambda: status).render().decode()


def render_lines(metrics: Metrics) -> set[str]:
    return set(render(metrics).splitlines())


def result(
    *,
    usage: Usage = USAGE,
    backend_id: str = "vllm:http://gpu",
    duration_ms: int = 1250,
    prices: tuple[int | None, int | None] = (None, None),
) -> JobResult:
    return JobResult(JOB_ID, 1000, usage, backend_id, duration_ms, 300, *prices)


def error(code: ErrorCode) -> JobError:
    return JobError(JOB_ID, 10, code, "", backend_id="vllm:http://gpu")


def count(
    metrics: Metrics,
    end: JobEnd,
    *,
    first_byte_s: float | None = None,
    model_id: str = "m",
    streamed: bool = False,
    failover_causes: tuple[ErrorCode, ...] = (),
) -> None:
    code = ErrorCode(end.code) if isinstance(end, JobError) else None
    record = JobRecord(
        "openai",
        "vllm",
        end,
        first_byte_s,
        model_id=model_id,
        streamed=streamed,
        failover_causes=failover_causes,
    )
    metrics.job_ended(record, code)


def refuse(metrics: Metrics, reason: RefusalReason, model_id: str = "m", name: str = "x") -> None:
    end = JobError(JOB_ID, 0, ErrorCode.OUT_OF_CAPACITY, "")
    record = JobRecord(name, "", end, None, 0, model_id=model_id, refusal=reason)
    metrics.job_ended(record, ErrorCode.OUT_OF_CAPACITY)


def test_ended_job_is_counted_with_its_totals() -> None:
    metrics = Metrics()
    count(metrics, result(), first_byte_s=0.3)
    backend = 'backend="vllm:http://gpu"'
    assert {
        f'{JOBS}{{{backend},code="ok",format="openai",kind="vllm",model="m"}} 1.0',
        f'provider_agent_relayed_bytes_total{{{backend},format="openai",kind="vllm"}} 1000.0',
        f'provider_agent_tokens_total{{{backend},direction="input",kind="vllm",model="m"}} 10.0',
        f'provider_agent_tokens_total{{{backend},direction="output",kind="vllm",model="m"}} 20.0',
        f'provider_agent_first_byte_seconds_bucket{{{backend},kind="vllm",le="0.2",model="m"}} 0.0',
        f'provider_agent_first_byte_seconds_bucket{{{backend},kind="vllm",le="0.4",model="m"}} 1.0',
        f"provider_agent_job_duration_seconds_sum{{{SERIES}}} 1.25",
    } <= render_lines(metrics)


def test_jobs_with_different_outcomes_share_the_series_without_a_code() -> None:
    metrics = Metrics()
    count(metrics, result(usage=Usage(None, 0)), first_byte_s=0.2)
    count(metrics, error(ErrorCode.CANCELLED))
    count(metrics, result(usage=Usage(None, 0)), first_byte_s=1000.0)
    lines = render_lines(metrics)
    backend = 'backend="vllm:http://gpu"'
    jobs = (
        f'provider_agent_jobs_total{{{backend},code="%s",format="openai",kind="vllm",model="m"}} %s'
    )
    bucket = (
        f'provider_agent_first_byte_seconds_bucket{{{backend},kind="vllm",le="%s",model="m"}} %s'
    )
    assert {
        jobs % ("ok", "2.0"),
        jobs % ("cancelled", "1.0"),
        f'provider_agent_relayed_bytes_total{{{backend},format="openai",kind="vllm"}} 2010.0',
        f'provider_agent_tokens_total{{{backend},direction="output",kind="vllm",model="m"}} 0.0',
        bucket % ("0.1", "0.0"),
        bucket % ("0.2", "1.0"),
        bucket % ("102.4", "1.0"),
        bucket % ("+Inf", "2.0"),
        f"provider_agent_first_byte_seconds_count{{{SERIES}}} 2.0",
        f"provider_agent_first_byte_seconds_sum{{{SERIES}}} 1000.2",
    } <= lines


def test_page_has_no_creation_times() -> None:
    metrics = Metrics()
    count(metrics, result(), first_byte_s=0.3, streamed=True)
    assert "_created" not in render(metrics)


def test_token_time_is_the_mean_of_a_stream_after_its_first_byte() -> None:
    metrics = Metrics()
    end = result(usage=Usage(10, 11), duration_ms=1500)
    count(metrics, end, first_byte_s=0.5, streamed=True)
    count(metrics, end, first_byte_s=0.5, streamed=False)
    count(metrics, result(usage=Usage(10, 1)), first_byte_s=0.5, streamed=True)
    lines = render_lines(metrics)
    assert f"provider_agent_token_seconds_count{{{SERIES}}} 1.0" in lines
    assert f"provider_agent_token_seconds_sum{{{SERIES}}} 0.1" in lines


def test_earnings_are_claimed_per_model_and_exact_in_sum() -> None:
    metrics = Metrics()
    # 3 tokens at half a dollar per million are 1.5 millionths; 7 at 2 dollars are 14.
    for _ in range(2):
        count(metrics, result(usage=Usage(3, 7), prices=(500_000, 2_000_000)))
    count(metrics, result(usage=Usage(3, 7), prices=(0, 0)), model_id="free")
    count(metrics, result(usage=Usage(3, 7)), model_id="unpriced")
    count(metrics, replace(error(ErrorCode.CANCELLED), usage=Usage(3, 7), input_price_per_1m=9**9))
    earnings = [
        line for line in render(metrics).splitlines() if "earnings_millionths_total{" in line
    ]
    assert earnings == [
        'provider_agent_earnings_millionths_total{model="m",status="claimed"} 31.0',
        'provider_agent_earnings_millionths_total{model="free",status="claimed"} 0.0',
    ]


def test_the_number_of_backends_and_models_is_bounded() -> None:
    metrics = Metrics()
    for number in range(MAX_PAIRS + 5):
        count(metrics, result(backend_id="b"), model_id=f"m{number}")
    jobs = [line for line in render(metrics).splitlines() if "_jobs_total{" in line]
    assert len(jobs) == MAX_PAIRS + 1
    labels = 'backend="other",code="ok",format="openai",kind="vllm",model="other"'
    assert [line for line in jobs if 'backend="other"' in line] == [f"{JOBS}{{{labels}}} 5.0"]


def test_failovers_are_counted_by_cause() -> None:
    metrics = Metrics()
    causes = (ErrorCode.BACKEND_TIMEOUT, ErrorCode.BACKEND_TIMEOUT)
    count(metrics, result(), failover_causes=causes)
    assert 'provider_agent_failovers_total{cause="backend_timeout"} 2.0' in render_lines(metrics)


def test_unknown_tokens_are_not_counted_as_zero() -> None:
    metrics = Metrics()
    count(metrics, result(usage=Usage(None, None)))
    assert "provider_agent_tokens_total{" not in render(metrics)


def test_models_and_formats_that_the_agent_does_not_know_share_one_label() -> None:
    metrics = Metrics()
    for name in ("gemini", "x" * 1000):
        refuse(metrics, RefusalReason.NOT_SERVED, model_id="", name=name)
    line = (
        'provider_agent_jobs_total{backend="none",code="out_of_capacity",format="other",'
        'kind="none",model="other"} 2.0'
    )
    assert line in render_lines(metrics)


def test_refusals_are_counted_by_reason_and_the_latest_are_kept() -> None:
    clock = FakeClock(100.0)
    metrics = Metrics(clock)
    refuse(metrics, RefusalReason.AGENT_FULL, "first")
    clock.now = 101.0
    for _ in range(MAX_REFUSALS):
        refuse(metrics, RefusalReason.TOKEN_LIMIT, "m")
    lines = render_lines(metrics)
    assert 'provider_agent_refusals_total{reason="agent_full"} 1.0' in lines
    assert f'provider_agent_refusals_total{{reason="token_limit"}} {MAX_REFUSALS}.0' in lines
    assert {(one.at, one.reason, one.model_id) for one in metrics.refused} == {
        (101.0, RefusalReason.TOKEN_LIMIT, "m")
    }


@pytest.mark.parametrize(
    "series",
    [
        'refusals_total{reason="price"}',
        'failovers_total{cause="backend_unreachable"}',
        'reconnects_total{cause="lost"}',
        'notices_total{severity="error"}',
        'reloads_total{result="failed"}',
        'traces_total{result="dropped"}',
        "ledger_unwritten_jobs_total",
    ],
)
def test_series_with_known_labels_exist_from_the_start(series: str) -> None:
    assert f"provider_agent_{series} 0.0" in render_lines(Metrics())


def test_reloads_are_counted_by_result() -> None:
    metrics = Metrics()
    metrics.reloaded(ReloadResult.APPLIED)
    assert 'provider_agent_reloads_total{result="applied"} 1.0' in render_lines(metrics)


async def _late_samples(late_s: float) -> LoopLag:
    lag, loop = LoopLag(), asyncio.get_running_loop()
    task = asyncio.create_task(lag.measure())
    await asyncio.sleep(INTERVAL_S - 0.5)
    assert isinstance(loop, VirtualTimeLoop)
    loop.jump(0.5 + late_s)  # as a callback that blocks the loop
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return lag


@in_virtual_time
async def test_a_blocked_event_loop_is_measured() -> None:
    metrics = Metrics()
    metrics.loop_lag = await _late_samples(0.3)
    lines = render_lines(metrics)
    assert 'provider_agent_event_loop_lag_seconds_bucket{le="0.25"} 0.0' in lines
    assert 'provider_agent_event_loop_lag_seconds_bucket{le="0.5"} 1.0' in lines


def test_every_metric_is_documented() -> None:
    metrics = Metrics()
    count(metrics, result(prices=(1, 1)), first_byte_s=0.3, streamed=True)
    routing = Routing(revision=1, unroutable_count=0, unroutable=[])
    page = render(metrics, replace(STATUS, routing=routing))
    names = set(re.findall(r"^# TYPE (provider_agent_\w+) ", page, re.MULTILINE))
    documented = re.findall(r"^\| `(provider_agent_\w+)`", DOCUMENT.read_text(), re.MULTILINE)
    assert sorted(names) == sorted(documented)


def test_resumed_jobs_are_counted() -> None:
    metrics = Metrics()
    metrics.resumed(0)
    metrics.resumed(3)
    assert "provider_agent_resumed_jobs_total 3.0" in render_lines(metrics)


def test_reconnects_are_counted_by_cause() -> None:
    metrics = Metrics()
    metrics.reconnecting("lost")
    assert 'provider_agent_reconnects_total{cause="lost"} 1.0' in render_lines(metrics)


def test_notices_and_unroutable_models_are_counted_with_bounded_labels() -> None:
    metrics = Metrics()
    metrics.notice_received("warning")
    unroutable = [UnroutableOffer("m", code, "") for code in ("price", "x", "y")]
    routing = Routing(revision=1, unroutable_count=9, unroutable=unroutable)
    page = render(metrics, replace(STATUS, routing=routing))

    assert {
        'provider_agent_notices_total{severity="warning"} 1.0',
        'provider_agent_unroutable_models{reason="price"} 1.0',
        'provider_agent_unroutable_models{reason="quota"} 0.0',
        'provider_agent_unroutable_models{reason="other"} 8.0',
    } <= set(page.splitlines())


def test_gauges_read_the_status_once_per_scrape() -> None:
    calls = []

    def status() -> StatusSnapshot:
        calls.append(1)
        return StatusSnapshot(
            version="1.2",
            uptime_s=1,
            link="connected",
            coordinator_url="wss://c.example",
            in_flight=3,
            capacity=8,
            backends=[
                BackendStatus(id="vllm:http://gpu", kind="vllm", healthy=True, models=2, queued=1),
                BackendStatus(id="venice", kind="venice", healthy=False),
            ],
        )

    page = MetricsPage(Metrics(), status)
    assert calls == []
    lines = set(page.render().decode().splitlines())
    assert calls == [1]
    assert {
        'provider_agent_info{version="1.2"} 1.0',
        "provider_agent_in_flight 3.0",
        "provider_agent_capacity 8.0",
        "provider_agent_draining 0.0",
        "provider_agent_link_up 1.0",
        'provider_agent_backend_up{backend="vllm:http://gpu",kind="vllm"} 1.0',
        'provider_agent_backend_up{backend="venice",kind="venice"} 0.0',
        'provider_agent_backend_models{backend="vllm:http://gpu",kind="vllm"} 2.0',
        'provider_agent_backend_queued{backend="vllm:http://gpu",kind="vllm"} 1.0',
    } <= lines


def test_two_agents_in_one_process_do_not_share_counters() -> None:
    one, other = Metrics(), Metrics()
    one.reconnecting("lost")
    assert 'reconnects_total{cause="lost"} 0.0' in render(other)
