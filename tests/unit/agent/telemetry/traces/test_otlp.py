import asyncio

import pytest

from provider_agent.agent.telemetry.traces.job_spans import JobSpan
from provider_agent.agent.telemetry.traces.otlp import OtlpSender
from tests.kit.otlp_collector import OtlpCollector

SPAN = JobSpan("job", 1, 2, {})


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://user:PASSWORD@{place}"},
            "TLS failed",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:PASSWORD@127.0.0.1:9"}, "cannot be reached"),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "https://user:PASSWORD@{place}",
                "OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such/file",
            },
            "TLS failed; see OTEL_EXPORTER_OTLP_CERTIFICATE",
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:PASSWORD@{place}",
                "OTEL_EXPORTER_OTLP_HEADERS": "key=PASSWORD%0Ax",
            },
            "InvalidHeader",
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:PASSWORD@collector.example",
                "HTTP_PROXY": "http://user:PASSWORD@127.0.0.1:9",
            },
            "the proxy before the collector",
        ),
    ],
)
async def test_problem_names_the_cause_and_no_password(
    environ: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with OtlpCollector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
        for name, value in environ.items():
            monkeypatch.setenv(name, value.replace("{place}", f"127.0.0.1:{collector.port}"))
        sender = OtlpSender({})
        problem = await asyncio.to_thread(sender.send, [("", [SPAN])])
        sender.close()
    assert reason in problem
    assert "PASSWORD" not in problem


async def test_invalid_traceparent_starts_a_new_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    async with OtlpCollector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        sender = OtlpSender({})
        assert await asyncio.to_thread(sender.send, [("00-x-y-01", [SPAN])]) == ""
        sender.close()
    assert collector.named("job").parent_span_id == b""
