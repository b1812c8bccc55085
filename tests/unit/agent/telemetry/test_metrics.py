from msgspec.structs import replace

from provider_agent.agent.link.coordinator_messages import Routing, UnroutableOffer
from provider_agent.agent.telemetry.metrics import Metrics
from provider_agent.agent.telemetry.metrics_page import MetricsPage
from provider_agent.agent.telemetry.status import BackendStatus, StatusSnapshot
from provider_agent.protocol.errors import ErrorCode

STATUS = StatusSnapshot(version="1", uptime_s=1, link="connected", coordinator_url="")


def render(metrics: Metrics, status: StatusSnapshot = STATUS) -> str:
    return MetricsPage(metrics, lambda: status).render().decode()


def render_lines(metrics: Metrics) -> set[str]:
    return set(render(metrics).splitlines())


def test_ended_job_is_counted_with_its_totals() -> None:
    metrics = Metrics()
    metrics.job_ended(
        code=None,
        wire_format="openai",
        kind="vllm",
        relayed_bytes=1000,
        input_tokens=10,
        output_tokens=20,
        first_byte_s=0.3,
    )
    lines = render_lines(metrics)
    assert {
        'provider_agent_jobs_total{code="ok",format="openai",kind="vllm"} 1.0',
        'provider_agent_relayed_bytes_total{format="openai",kind="vllm"} 1000.0',
        'provider_agent_tokens_total{direction="input",kind="vllm"} 10.0',
        'provider_agent_tokens_total{direction="output",kind="vllm"} 20.0',
        'provider_agent_first_byte_seconds_bucket{format="openai",kind="vllm",le="0.2"} 0.0',
        'provider_agent_first_byte_seconds_bucket{format="openai",kind="vllm",le="0.4"} 1.0',
    } <= lines


def test_jobs_with_different_outcomes_share_the_series_without_a_code() -> None:
    metrics = Metrics()
    for code, first_byte_s in ((None, 0.2), (ErrorCode.CANCELLED, 0.25), (None, 1000.0)):
        metrics.job_ended(
            code=code,
            wire_format="openai",
            kind="vllm",
            relayed_bytes=10,
            output_tokens=0,
            first_byte_s=first_byte_s,
        )
    bucket = 'provider_agent_first_byte_seconds_bucket{format="openai",kind="vllm",le='
    assert {
        'provider_agent_jobs_total{code="ok",format="openai",kind="vllm"} 2.0',
        'provider_agent_jobs_total{code="cancelled",format="openai",kind="vllm"} 1.0',
        'provider_agent_relayed_bytes_total{format="openai",kind="vllm"} 30.0',
        'provider_agent_tokens_total{direction="output",kind="vllm"} 0.0',
        f'{bucket}"0.1"}} 0.0',
        f'{bucket}"0.2"}} 1.0',
        f'{bucket}"0.4"}} 2.0',
        f'{bucket}"102.4"}} 2.0',
        f'{bucket}"+Inf"}} 3.0',
        'provider_agent_first_byte_seconds_count{format="openai",kind="vllm"} 3.0',
        'provider_agent_first_byte_seconds_sum{format="openai",kind="vllm"} 1000.45',
    } <= render_lines(metrics)
    assert "provider_agent_first_byte_seconds_created{" in render(metrics)


def test_failovers_count_all_attempts_but_the_first() -> None:
    metrics = Metrics()
    for attempts in (0, 1, 3):
        metrics.job_ended(
            code=None, wire_format="openai", kind="vllm", relayed_bytes=1, attempts=attempts
        )
    assert 'provider_agent_failovers_total{kind="vllm"} 2.0' in render_lines(metrics)


def test_unknown_tokens_are_not_counted_as_zero() -> None:
    metrics = Metrics()
    metrics.job_ended(code=None, wire_format="openai", kind="vllm", relayed_bytes=1)
    assert "provider_agent_tokens_total{" not in render(metrics)


def test_unknown_formats_share_one_label() -> None:
    metrics = Metrics()
    for name in ("gemini", "x" * 1000):
        metrics.job_ended(
            code=ErrorCode.FORMAT_NOT_SUPPORTED, wire_format=name, kind=None, relayed_bytes=0
        )
    line = 'provider_agent_jobs_total{code="format_not_supported",format="other",kind="none"} 2.0'
    assert line in render_lines(metrics)


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
                BackendStatus(id="vllm:http://gpu", kind="vllm", healthy=True, models=2),
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
        'provider_agent_backend_up{id="vllm:http://gpu",kind="vllm"} 1.0',
        'provider_agent_backend_up{id="venice",kind="venice"} 0.0',
        'provider_agent_backend_models{id="vllm:http://gpu",kind="vllm"} 2.0',
    } <= lines


def test_two_agents_in_one_process_do_not_share_counters() -> None:
    one, other = Metrics(), Metrics()
    one.reconnecting("lost")
    assert 'cause="lost"' not in render(other)
